"""What is wrong with a data set before anything is learned from it: copies, contradictions, shortcuts.

Copies (shared patient, identical pixels, near duplicates) join images into groups, which splits must not
divide. Contradictions are groups of copies under several labels. Shortcuts are properties that have nothing
to do with the bone, file size or border or age, and yet predict the label: what such a cue scores alone is
what a network has to beat before its accuracy means anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.audit.near_duplicates import NearDuplicate, find_near_duplicates, thumbnail
from data_prep.split import connected_groups

_FOLDS = 5
_BOOTSTRAPS = 2000
# A metadata column with more distinct words than this is an identifier, not a category.
_MAX_CATEGORIES = 20


@dataclass(frozen=True)
class AuditRecord:
    """What the audit needs to know of an image besides its pixels.

    Attributes:
      file: name in the source; unique.
      label: class name.
      patient_id: patient; the file itself where none is known.
      sha256: of the decoded pixels, equal for equal pictures whatever the file format.
      n_bytes: size of the file.
      width, height, bits: of the file.
      sigma: estimated noise in grey levels of 255.
      metadata: further columns, as text; missing ones left out.
    """

    file: str
    label: str
    patient_id: str
    sha256: str
    n_bytes: int
    width: int
    height: int
    bits: int
    sigma: float
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The findings; `to_dict` is what `audit.json` holds.

    Attributes:
      groups: for each record the name of its group: the smallest patient_id in it.
      exact_duplicates: lists of records with identical pixels.
      near_duplicates: pairs found by content, indices into the records.
      conflicts: lists of records with identical pixels under several labels.
      near_conflicts: lists of records that near duplicates join, under several labels.
      shortcuts: score of each trivial cue.
    """

    records: tuple[AuditRecord, ...]
    groups: tuple[str, ...]
    exact_duplicates: tuple[tuple[int, ...], ...]
    near_duplicates: tuple[NearDuplicate, ...]
    conflicts: tuple[tuple[int, ...], ...]
    near_conflicts: tuple[tuple[int, ...], ...]
    shortcuts: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""

        def describe(indices: Iterable[int]) -> list[dict[str, str]]:
            chosen = (self.records[i] for i in indices)
            return [{"file": r.file, "label": r.label, "patient_id": r.patient_id} for r in chosen]

        return {
            "images": len(self.records),
            "distinct_images": len({r.sha256 for r in self.records}),
            "patients": len({r.patient_id for r in self.records}),
            "groups": len(set(self.groups)),
            "exact_duplicates": [describe(group) for group in self.exact_duplicates],
            "near_duplicates": [
                {
                    "part": self.records[pair.part].file,
                    "whole": self.records[pair.whole].file,
                    "labels": [self.records[pair.part].label, self.records[pair.whole].label],
                    "box": [round(edge, 4) for edge in pair.box],
                    "mirrored": pair.mirrored,
                    "correlation": round(pair.correlation, 4),
                }
                for pair in self.near_duplicates
            ],
            "conflicts": [describe(group) for group in self.conflicts],
            "near_conflicts": [describe(group) for group in self.near_conflicts],
            "shortcuts": [dict(cue) for cue in self.shortcuts],
        }


def audit_records(
    records: Sequence[AuditRecord],
    load: Callable[[int], NDArray[np.floating]],
    *,
    near_duplicates: bool = True,
    shortcuts: bool = True,
    seed: int = 0,
) -> Audit:
    """Audits a labelled set of images.

    Args:
      records: the images.
      load: index of a record -> its (height, width) image in any range; called once for each, in order. 16
        KiB of each image are kept.
      near_duplicates: whether to look for copies that are not identical; the number of pairs grows with the
        square of the number of images.
      shortcuts: whether to score the trivial cues.
      seed: of the folds and the bootstrap.
    """
    thumbnails = np.zeros((len(records), *thumbnail(np.zeros((2, 2))).shape), np.uint8)
    if near_duplicates or shortcuts:
        for index in range(len(records)):
            thumbnails[index] = thumbnail(load(index))
    contents = _same_content(records)
    pairs = _near_duplicates(records, contents, thumbnails) if near_duplicates else []
    copies = [[("content", r.sha256)] for r in records]
    for number, pair in enumerate(pairs):
        for index in (pair.part, pair.whole):
            copies[index].append(("pair", number))
    patients = [[*keys, ("patient", r.patient_id)] for keys, r in zip(copies, records, strict=True)]
    groups = _group_names(records, connected_groups(patients))
    joined = {index for pair in pairs for index in (pair.part, pair.whole)}
    pictures = [p for p in _members(connected_groups(copies)) if not joined.isdisjoint(p)]

    def contradict(indices: tuple[int, ...]) -> bool:
        return len({records[i].label for i in indices}) > 1

    return Audit(
        records=tuple(records),
        groups=groups,
        exact_duplicates=tuple(c for c in contents if len(c) > 1),
        near_duplicates=tuple(pairs),
        conflicts=tuple(filter(contradict, contents)),
        near_conflicts=tuple(filter(contradict, pictures)),
        shortcuts=tuple(_shortcuts(records, groups, thumbnails, seed)) if shortcuts else (),
    )


def _members(components: Sequence[Hashable]) -> list[tuple[int, ...]]:
    members = defaultdict(list)
    for index, component in enumerate(components):
        members[component].append(index)
    return [tuple(group) for group in members.values()]


def _same_content(records: Sequence[AuditRecord]) -> list[tuple[int, ...]]:
    return _members([r.sha256 for r in records])


def _group_names(records: Sequence[AuditRecord], components: Sequence[int]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for record, component in zip(records, components, strict=True):
        names[component] = min(names.get(component, record.patient_id), record.patient_id)
    return tuple(names[component] for component in components)


def _near_duplicates(
    records: Sequence[AuditRecord], contents: Sequence[tuple[int, ...]], thumbnails: NDArray[np.uint8]
) -> list[NearDuplicate]:
    """Near duplicates among one representative of each content; pairs of one patient are joined already."""
    first = np.array([group[0] for group in contents])
    patients = [{records[i].patient_id for i in group} for group in contents]
    pairs = find_near_duplicates(thumbnails[first], same=lambda a, b: not patients[a].isdisjoint(patients[b]))
    return [
        NearDuplicate(int(first[p.part]), int(first[p.whole]), p.box, p.mirrored, p.correlation)
        for p in pairs
    ]


def _cues(records: Sequence[AuditRecord], thumbnails: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Name of each trivial cue -> (n, features)."""
    images = thumbnails / 255.0
    n, side, _ = images.shape
    block = side // 8
    edge = side // 16
    strips = np.stack(
        [images[:, :edge], images[:, -edge:], images[:, :, :edge].mT, images[:, :, -edge:].mT], axis=1
    )
    cues = {
        "file_size": np.log([[r.n_bytes] for r in records]),
        "dimensions": np.array([[np.log(r.width), np.log(r.height), r.bits] for r in records]),
        "noise": np.array([[r.sigma] for r in records]),
        "exposure": np.column_stack(
            [images.mean((1, 2)), images.std((1, 2)), *np.percentile(images, (5, 50, 95), axis=(1, 2))]
        ),
        "border": strips.reshape(n, 4, edge, 8, block).mean((2, 4)).reshape(n, -1),
        "thumbnail_8x8": images.reshape(n, 8, block, 8, block).mean((2, 4)).reshape(n, -1),
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
    return np.column_stack([np.where(missing, np.median(numbers[~missing]), numbers), missing])


def _shortcuts(
    records: Sequence[AuditRecord], groups: Sequence[str], thumbnails: NDArray[np.uint8], seed: int
) -> list[dict[str, Any]]:
    """Balanced accuracy of each cue alone, cross-validated with whole groups held out."""
    names = sorted({r.label for r in records})
    labels = np.array([names.index(r.label) for r in records])
    group = np.unique(np.array(groups), return_inverse=True)[1]
    smallest = min((len(np.unique(group[labels == k])) for k in range(len(names))), default=0)
    if len(names) < 2 or smallest < 2:
        return []
    found = []
    for cue, features in _cues(records, thumbnails).items():
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
