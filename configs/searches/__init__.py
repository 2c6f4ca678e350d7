"""Searches of `osteojax sweep --trials`; the docstring of each holds its command and what it asks."""
