"""Sweeps of `osteojax sweep`; the docstring of each holds its command and what it asks."""
