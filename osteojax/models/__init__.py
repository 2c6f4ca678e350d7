"""Image classifiers in Flax NNX: one registry of architectures, weights and their preprocessing."""

from osteojax.models.backbone import STAGES, Backbone, stages
from osteojax.models.layers.norm import BatchNorm
from osteojax.models.registry import REGISTRY, Preprocessing, Spec, WeightsSource, create, spec

__all__ = [
    "REGISTRY",
    "STAGES",
    "Backbone",
    "BatchNorm",
    "Preprocessing",
    "Spec",
    "WeightsSource",
    "create",
    "spec",
    "stages",
]
