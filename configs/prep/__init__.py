"""Configs of `osteojax prep`; the docstring of each holds its command and the result to expect."""
