"""Multinomial logistic regression."""

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from osteojax.baselines.classifiers.registry import CLASSIFIERS
from osteojax.baselines.sources.registry import Table
from osteojax.registry import NoSettings

_C = np.logspace(-4, 2, 7)  # inverse strength of the penalty


def columns(features: Table) -> ColumnTransformer:
    """Numbers are standardised; a missing one becomes the median, and a column says that it was. Categories are one
    column each, missing among them, and one that was never seen is none of them. All of it is learned by fitting.

    Of F columns of one source each is divided by sqrt(F), so that a penalty holds back every source alike: age is not
    lost among the two thousand features of a network.
    """
    parts, weights = [], {}
    for block in np.unique(features.block):
        mine = features.block == block
        for kind, of_kind in (("numbers", ~features.categorical), ("categories", features.categorical)):
            name = f"{kind} {block}"
            parts.append((name, _KINDS[kind](), np.flatnonzero(mine & of_kind)))
            weights[name] = 1 / np.sqrt(mine.sum())
    return ColumnTransformer(parts, sparse_threshold=0, transformer_weights=weights)


_KINDS = {
    "numbers": lambda: make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()),
    "categories": lambda: make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1), OneHotEncoder(handle_unknown="ignore")
    ),
}


@CLASSIFIERS.function("logistic")
def logistic(
    features: Table, balanced: bool, seed: int, settings: NoSettings
) -> tuple[Any, dict[str, list[Any]]]:
    """Ridge-penalised; see `columns`. The strength is chosen."""
    del seed, settings
    model = LogisticRegression(max_iter=5000, class_weight="balanced" if balanced else None)
    return make_pipeline(columns(features), model), {"logisticregression__C": _C.tolist()}
