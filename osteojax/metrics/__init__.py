"""Metrics of a classifier and their intervals; each metric is one file that registers one function."""

from osteojax.registry import discover

discover(__name__)
