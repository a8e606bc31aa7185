"""The peers at tower level, each in a process of its own that answers on its standard streams."""
