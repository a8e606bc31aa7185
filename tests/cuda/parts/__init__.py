"""The parts of `run`: each checks or measures one thing, and gives rows of a table."""
