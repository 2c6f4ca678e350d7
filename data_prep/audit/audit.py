"""What is wrong with a data set before anything is learned from it: copies, contradictions, shortcuts.

Copies (shared patient, identical pixels, near duplicates) join images into groups, which splits must not
divide. Contradictions are groups of copies under several labels. Shortcuts are properties that have nothing
to do with the bone, file size or border or age, and yet predict the label: what such a cue scores alone is
what a network has to beat before its accuracy means anything.
"""

import collections
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.audit.alignment import thumbnail
from data_prep.audit.near_duplicates import NearDuplicate, find_near_duplicates
from data_prep.audit.record import AuditRecord
from data_prep.audit.shortcuts import Look, look_of, score_shortcuts
from data_prep.split import connected_groups


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings; `to_dict` is what `audit.json` holds.

    Attributes:
        groups: for each record the name of its group: the smallest patient_id in it.
        exact_duplicates: lists of records with identical pixels.
        near_duplicates: pairs found by content, indices into the records.
        conflicts: lists of records with identical pixels under several labels.
        near_conflicts: lists of records that near duplicates join, under several labels.
        shortcuts: score of each trivial cue.
        pictures: for each record a number that it shares with its copies, identical and near.
        searched: whether near duplicates were looked for.
    """

    records: tuple[AuditRecord, ...]
    groups: tuple[str, ...]
    exact_duplicates: tuple[tuple[int, ...], ...]
    near_duplicates: tuple[NearDuplicate, ...]
    conflicts: tuple[tuple[int, ...], ...]
    near_conflicts: tuple[tuple[int, ...], ...]
    shortcuts: tuple[Mapping[str, Any], ...]
    pictures: tuple[int, ...]
    searched: bool

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
                    "rotation": round(pair.rotation, 2),
                    "inverted": pair.inverted,
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
        load: index of a record -> its (height, width) image in any range; called once for each, in order. Of each
            image `find_near_duplicates` keeps about 12 KiB in memory and 16 on disk, and the trivial cues 1.
        near_duplicates: whether to look for copies that are not identical.
        shortcuts: whether to score the trivial cues.
        seed: of the folds and the bootstrap.
    """
    looks: list[Look] = []

    def images() -> Iterator[NDArray[np.floating]]:
        for index in range(len(records)):
            image = load(index)
            if shortcuts:
                looks.append(look_of(thumbnail(image)))
            yield image

    pairs: list[NearDuplicate] | None = None
    if near_duplicates:
        pairs = _near_duplicates(records, images())
    elif shortcuts:
        collections.deque(images(), maxlen=0)  # for the looks alone
    return conclude(records, pairs, looks if shortcuts else None, seed=seed)


def conclude(
    records: Sequence[AuditRecord],
    pairs: Sequence[NearDuplicate] | None,
    looks: Sequence[Look] | None,
    *,
    seed: int = 0,
) -> Audit:
    """What follows from the pairs that were found.

    Args:
        records: the images.
        pairs: of near duplicates, by the records' numbers; None where they were not looked for.
        looks: of the images, to score the trivial cues on; None not to.
        seed: of the folds and the bootstrap.
    """
    contents = same_content(records)
    found = pairs or ()
    copies: list[list[tuple[str, object]]] = [[("content", r.sha256)] for r in records]
    for number, pair in enumerate(found):
        for index in (pair.part, pair.whole):
            copies[index].append(("pair", number))
    patients = [[*keys, ("patient", r.patient_id)] for keys, r in zip(copies, records, strict=True)]
    groups = _group_names(records, connected_groups(patients))
    joined = {index for pair in found for index in (pair.part, pair.whole)}
    pictures = connected_groups(copies)
    near = [p for p in _members(pictures) if not joined.isdisjoint(p)]

    def contradict(indices: tuple[int, ...]) -> bool:
        return len({records[i].label for i in indices}) > 1

    return Audit(
        records=tuple(records),
        groups=groups,
        exact_duplicates=tuple(c for c in contents if len(c) > 1),
        near_duplicates=tuple(found),
        conflicts=tuple(filter(contradict, contents)),
        near_conflicts=tuple(filter(contradict, near)),
        shortcuts=() if looks is None else tuple(score_shortcuts(records, groups, looks, seed)),
        pictures=tuple(pictures),
        searched=pairs is not None,
    )


def _members(components: Sequence[Hashable]) -> list[tuple[int, ...]]:
    members = defaultdict(list)
    for index, component in enumerate(components):
        members[component].append(index)
    return [tuple(group) for group in members.values()]


def same_content(records: Sequence[AuditRecord]) -> list[tuple[int, ...]]:
    """The records by identical pixels, in the order of the first of each."""
    return _members([r.sha256 for r in records])


def _group_names(records: Sequence[AuditRecord], components: Sequence[int]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for record, component in zip(records, components, strict=True):
        names[component] = min(names.get(component, record.patient_id), record.patient_id)
    return tuple(names[component] for component in components)


def _near_duplicates(
    records: Sequence[AuditRecord], images: Iterable[NDArray[np.floating]]
) -> list[NearDuplicate]:
    """Near duplicates among one representative of each content; pairs of one patient are joined already."""
    contents = same_content(records)
    first = {group[0] for group in contents}
    pairs = find_near_duplicates(
        (image for index, image in enumerate(images) if index in first),
        len(contents),
        same=of_one_patient(records, contents),
    )
    return by_record(pairs, contents)


def of_one_patient(
    records: Sequence[AuditRecord], contents: Sequence[tuple[int, ...]]
) -> Callable[[int, int], bool]:
    """Whether two contents, by number, are of one patient."""
    patients = [{records[i].patient_id for i in group} for group in contents]
    return lambda a, b: not patients[a].isdisjoint(patients[b])


def by_record(pairs: Iterable[NearDuplicate], contents: Sequence[tuple[int, ...]]) -> list[NearDuplicate]:
    """Pairs of contents as pairs of the first record of each."""
    return [dataclasses.replace(p, part=contents[p.part][0], whole=contents[p.whole][0]) for p in pairs]
