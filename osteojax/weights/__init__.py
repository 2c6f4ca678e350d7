"""ImageNet weights: read from untrusted files of many origins, converted, checked, put into a model."""

from osteojax.weights.load import WeightsFile, apply, load
from osteojax.weights.sources import IMAGENET

__all__ = ["IMAGENET", "WeightsFile", "apply", "load"]
