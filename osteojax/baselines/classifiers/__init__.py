"""Simple classifiers: one registered function each."""

from osteojax.registry import discover

discover(__name__)
