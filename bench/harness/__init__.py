"""Measures siglip-server beside its peers; `bench/run` starts it."""
