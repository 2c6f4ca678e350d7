"""ImageNet weights: read from untrusted files of many origins, converted, checked, put into a model."""

from osteojax.weights.load import WeightsFile, apply, load

__all__ = ["WeightsFile", "apply", "load"]
