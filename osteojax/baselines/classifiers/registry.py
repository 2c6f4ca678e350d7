"""The registry that a row's `classifier` chooses from."""

from collections.abc import Callable
from typing import Any

from osteojax.registry import Functions

# `f(features, balanced, seed, settings) -> (estimator, grid)`: what its F columns are, and whether classes count alike,
# to a classifier of scikit-learn for (N, F) float64 with NaN for what is missing, and the settings that an inner
# cross-validation chooses from.
CLASSIFIERS: Functions[Callable[..., tuple[Any, dict[str, list[Any]]]]] = Functions("classifier")

# Those whose estimator is fitted with `target` (N,) float64 beside the classes, and reads the class from it.
REGRESSES = ("thresholded",)
