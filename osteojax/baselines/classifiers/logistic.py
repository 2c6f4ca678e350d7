"""Multinomial logistic regression."""

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from osteojax.baselines.classifiers.registry import CLASSIFIERS
from osteojax.registry import NoSettings

_C = np.logspace(-4, 2, 7)  # inverse strength of the penalty


def columns(categorical: np.ndarray) -> ColumnTransformer:
    """Numbers are standardised; a missing one becomes the median, and a column says that it was. Categories are one
    column each, missing among them, and one that was never seen is none of them. All of it is learned by fitting.

    Args:
        categorical: (F,) which columns hold categories.
    """
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), OneHotEncoder(handle_unknown="ignore")
    )
    return ColumnTransformer(
        [
            ("numbers", numbers, np.flatnonzero(~categorical)),
            ("categories", categories, np.flatnonzero(categorical)),
        ],
        sparse_threshold=0,
    )


@CLASSIFIERS.function("logistic")
def logistic(
    categorical: np.ndarray, balanced: bool, seed: int, settings: NoSettings
) -> tuple[Any, dict[str, list[Any]]]:
    """Ridge-penalised; see `columns`. The strength is chosen."""
    del seed, settings
    model = LogisticRegression(max_iter=5000, class_weight="balanced" if balanced else None)
    return make_pipeline(columns(categorical), model), {"logisticregression__C": _C.tolist()}
