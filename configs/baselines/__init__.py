"""Configs of `osteojax baselines`; the docstring of each holds its command."""
