"""Image classifiers in Flax NNX: one registry of architectures, weights and their preprocessing."""

from osteojax.models.backbone import POOL, STAGES, Backbone, stages
from osteojax.models.layers.norm import BatchNorm
from osteojax.models.published import Preprocessing, WeightsSource
from osteojax.models.registry import ARCHITECTURES, Architecture, classifiers, create
from osteojax.registry import discover

__all__ = [
    "ARCHITECTURES",
    "POOL",
    "STAGES",
    "Architecture",
    "Backbone",
    "BatchNorm",
    "Preprocessing",
    "WeightsSource",
    "classifiers",
    "create",
    "stages",
]

discover(__name__)
