"""Denoisers, one a file, and the estimates of noise that steer them."""

from osteojax.registry import discover

discover(__name__)
