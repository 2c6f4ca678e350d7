"""What a checkpoint can be exported as; each format is one file that registers one function."""

from osteojax.registry import discover

discover(__name__)
