"""The parts of a run, each with `measure`: peak, tower, http, growth, families."""
