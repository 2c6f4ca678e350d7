"""Gradient-boosted trees."""

from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier

from osteojax.baselines.classifiers.registry import CLASSIFIERS
from osteojax.baselines.sources.registry import Table
from osteojax.registry import NoSettings


@CLASSIFIERS.function("boosting")
def boosting(
    features: Table, balanced: bool, seed: int, settings: NoSettings
) -> tuple[Any, dict[str, list[Any]]]:
    """Histogram gradient boosting (Friedman 2001; scikit-learn's): a missing value goes to the side that it fits.

    How many trees and how deep is chosen.
    """
    del settings
    model = HistGradientBoostingClassifier(
        learning_rate=0.05,
        min_samples_leaf=10,
        categorical_features=features.categorical,
        class_weight="balanced" if balanced else None,
        early_stopping=False,
        random_state=seed,
    )
    return model, {"max_iter": [25, 100], "max_depth": [1, 3]}
