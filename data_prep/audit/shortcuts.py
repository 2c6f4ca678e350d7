"""Trivial cues that predict the label: what a network has to beat before its accuracy means anything.

Properties that have nothing to do with the bone, file size or border or age, each scored alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data_prep.audit.record import AuditRecord

# What an image shows without the bone: name of a cue -> its numbers.
Look = Mapping[str, NDArray[np.float64]]

_FOLDS = 5
_BOOTSTRAPS = 2000
# A metadata column with more distinct words than this is an identifier, not a category.
_MAX_CATEGORIES = 20
# What single precision can compute with: cells of a table may hold any number.
_LARGEST = 1e30


def score_shortcuts(
    records: Sequence[AuditRecord], groups: Sequence[str], looks: Sequence[Look], seed: int
) -> list[dict[str, Any]]:
    """Balanced accuracy of each cue alone, cross-validated with whole groups held out.

    Args:
        records: the images.
        groups: name of the group of each.
        looks: of the images.
        seed: of the folds and the bootstrap.

    Returns:
        For each cue that is not the same everywhere: `cue`, `balanced_accuracy` of two models with their 95 %
        intervals, `chance`, and whether it `predicts`: whether an interval lies above chance. Nothing where there are
        fewer than two classes, or a class is one group.
    """
    names = sorted({r.label for r in records})
    labels = np.array([names.index(r.label) for r in records])
    group = np.unique(np.array(groups), return_inverse=True)[1]
    smallest = min((len(np.unique(group[labels == k])) for k in range(len(names))), default=0)
    if len(names) < 2 or smallest < 2:
        return []
    found = []
    for cue, features in _cues(records, looks).items():
        if np.ptp(features, axis=0).max() == 0:
            continue
        scores = {
            model: _interval(
                labels, _predict(model, features, labels, group, min(_FOLDS, smallest), seed), group, seed
            )
            for model in ("logistic", "tree")
        }
        found.append(
            {
                "cue": cue,
                "balanced_accuracy": scores,
                "chance": 1 / len(names),
                "predicts": any(score["ci95"][0] > 1 / len(names) for score in scores.values()),
            }
        )
    return found


def look_of(thumbnail: NDArray[np.uint8]) -> Look:
    """The cues that an image itself gives, of its thumbnail (side, side), `side` a multiple of 16; about 1 KiB."""
    image = thumbnail / 255.0
    side = len(image)
    block, edge = side // 8, side // 16
    strips = np.stack([image[:edge], image[-edge:], image[:, :edge].T, image[:, -edge:].T])
    return {
        "exposure": np.array([image.mean(), image.std(), *np.percentile(image, (5, 50, 95))]),
        "border": strips.reshape(4, edge, 8, block).mean((1, 3)).ravel(),
        "thumbnail_8x8": image.reshape(8, block, 8, block).mean((1, 3)).ravel(),
    }


def _cues(records: Sequence[AuditRecord], looks: Sequence[Look]) -> dict[str, NDArray[np.float64]]:
    """Name of each trivial cue -> (n, features)."""
    cues = {
        "file_size": np.log([[r.n_bytes] for r in records]),
        "dimensions": np.array([[np.log(r.width), np.log(r.height), r.bits] for r in records]),
        "noise": np.array([[r.sigma] for r in records]),
        **{name: np.stack([look[name] for look in looks]) for name in looks[0]},
    }
    columns = sorted({name for r in records for name in r.metadata})
    encoded = {f"metadata:{name}": _encode([r.metadata.get(name) for r in records]) for name in columns}
    return cues | {name: values for name, values in encoded.items() if values is not None}


def _encode(values: Sequence[str | None]) -> NDArray[np.float64] | None:
    """A metadata column as numbers: itself with a flag for missing values, or one column a category."""
    missing = np.array([value is None for value in values])
    try:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
    except ValueError:
        categories = sorted({value for value in values if value is not None})
        if len(categories) > _MAX_CATEGORIES:
            return None
        return np.array([[float(value == c) for c in categories] for value in values])
    missing |= ~np.isfinite(numbers)
    if missing.all():
        return None
    numbers = np.clip(numbers, -_LARGEST, _LARGEST)
    return np.column_stack([np.where(missing, np.median(numbers[~missing]), numbers), missing])


def _predict(
    model: str,
    features: NDArray[np.float64],
    labels: NDArray[np.intp],
    group: NDArray[np.intp],
    folds: int,
    seed: int,
) -> NDArray[np.intp]:
    """Out-of-fold predictions; no group is in training and test of one fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    classifier = {
        "logistic": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
        ),
        # For what is no matter of more or less, such as the three sizes that three devices write.
        "tree": DecisionTreeClassifier(
            max_depth=5, min_samples_leaf=5, class_weight="balanced", random_state=seed
        ),
    }[model]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    # Threads do not pay for problems of this size, and the last digits would depend on how many there are.
    with threadpool_limits(1):
        return cross_val_predict(classifier, features, labels, groups=group, cv=splitter)


def _interval(
    labels: NDArray[np.intp], predictions: NDArray[np.intp], group: NDArray[np.intp], seed: int
) -> dict[str, Any]:
    """Balanced accuracy with its percentile bootstrap over groups."""
    classes, groups = labels.max() + 1, group.max() + 1
    right, total = np.zeros((groups, classes)), np.zeros((groups, classes))
    np.add.at(total, (group, labels), 1)
    np.add.at(right, (group, labels), labels == predictions)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(groups, np.full(groups, 1 / groups), size=_BOOTSTRAPS)
    with np.errstate(invalid="ignore"):
        # A resample without a class scores the classes that it has.
        resampled = np.nanmean((times @ right) / (times @ total), axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    value = float(np.mean(right.sum(0) / total.sum(0)))
    return {"value": round(value, 4), "ci95": [round(float(low), 4), round(float(high), 4)]}
