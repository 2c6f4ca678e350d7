"""Configs of `osteojax train`; the docstring of each holds its command and the result to expect."""
