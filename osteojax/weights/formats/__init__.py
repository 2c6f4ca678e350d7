"""Readers of weights files, one a format; each describes its tensors before it reads them."""

from osteojax.registry import discover

discover(__name__)
