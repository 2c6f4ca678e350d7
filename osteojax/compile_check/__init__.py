"""The real train step compiled ahead of time for hardware that is not there, and what its program says of its cost."""
