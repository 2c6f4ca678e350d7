"""Which image goes where: what stays whole, what is tested, the deals, and whether the split leaks.

`settings.split` says how; docs/splits.md is for its users.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_prep import dates, strata
from data_prep.audit.audit import Audit
from data_prep.policies import resolve_duplicates
from data_prep.prepared import PreparedImage, group_names
from data_prep.settings import DATE, IMAGE, LABEL, PrepareSettings, SplitSection
from data_prep.source import Rejected
from data_prep.split import assign_splits, check_given_splits, connected_groups
from osteojax import leaky
from osteojax.errors import UserError

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Dealt:
    """What was kept, and where it went.

    Attributes:
        images: sorted by file.
        groups: file -> group; a split that does not leak divides none.
        splits: of each image.
        repeats: of each further deal, the fold of each image.
        left_out: what is in no split, with the reason.
        warnings: what to know of it.
        mark: of a split that leaks; None where none does.
    """

    images: list[PreparedImage]
    groups: dict[str, str]
    splits: list[str]
    repeats: list[list[str]]
    left_out: list[Rejected]
    warnings: list[str]
    mark: leaky.Mark | None


def deal(images: Sequence[PreparedImage], audit: Audit, settings: PrepareSettings) -> Dealt:
    """Deals the images of a source.

    Args:
        images: sorted by file, with the splits that the source or a split file demands.
        audit: of them, in their order.
        settings: of the preparation.

    Raises:
        UserError: a column that is not there, or without a value where one is needed; a given split that leaks; too few
            groups; nothing is left.
    """
    split = settings.split
    groups = _groups(images, audit, split)
    tested = _tested(images, split)
    # Before copies are dropped: one given to test and one to train is a leak, not a duplicate.
    divided = set() if tested is not None else _divided(images, groups, allowed=split.allow_leaky)
    kept, left_out = resolve_duplicates(images, settings.conflicts, settings.duplicates)
    warnings = []
    if tested is None:
        deals = [_deal(kept, groups, divided, settings, repeat) for repeat in range(split.repeats)]
    else:
        across = _across(kept, groups, tested)
        left_out += [
            Rejected(file, "its patient, or a copy of it, is on the other side too, where the network learns")
            for file in sorted(across)
        ]
        if across:
            warnings.append(
                f"{len(across)} images of the test side are left out (quarantine.csv): their patients, or copies of "
                "them, are on the other side too, where the network learns"
            )
        kept = [image for image in kept if image.record.file not in across]
        deals = [_beside_the_tested(kept, groups, tested, settings)]
    for splits in deals:
        _check_sides(splits, groups, settings)
    mark = _mark(kept, groups, audit, images, deals, divided, split)
    if mark is not None:
        warnings.append(leaky.told(mark))
    return Dealt(kept, groups, deals[0], deals[1:], left_out, warnings, mark)


def without_dates(images: Sequence[PreparedImage], settings: PrepareSettings) -> list[PreparedImage]:
    """The images as they are written: the dates that the split is made by cut down to their years."""
    column = settings.split.column
    if not settings.split.after or column is None:
        return list(images)
    found = []
    for image in images:
        metadata = dict(image.record.metadata)
        if column in metadata:
            metadata[column] = str(dates.parse(metadata[column], image.record.file)[0])
        found.append(dataclasses.replace(image, record=dataclasses.replace(image.record, metadata=metadata)))
    return found


def _groups(images: Sequence[PreparedImage], audit: Audit, split: SplitSection) -> dict[str, str]:
    """File -> group: shared patients, identical pixels and near copies; and the values of a column that is dealt."""
    names = list(audit.groups)
    if split.column is not None and not split.has_boundary:
        values = _values(images, split.column, needed_for=f"split.by={split.column}")
        joined = connected_groups(
            [(("group", name), ("value", value)) for name, value in zip(names, values, strict=True)]
        )
        first: dict[int, str] = {}
        for component, name in zip(joined, names, strict=True):
            first[component] = min(first.get(component, name), name)
        names = [first[component] for component in joined]
    return group_names(images, names)


def _values(images: Sequence[PreparedImage], column: str, *, needed_for: str) -> list[str]:
    """The value of every image in a column.

    Raises:
        UserError: there is no such column, or an image has no value in it.
    """
    values = _known_values(images, column, needed_for)
    without = [image.record.file for image, value in zip(images, values, strict=True) if value is None]
    if without:
        raise UserError(
            f"{needed_for}: {len(without)} images have no {column}, such as {', '.join(without[:_SHOWN])}; fill it in, "
            "or leave them out of the source"
        )
    return [value for value in values if value is not None]


def _known_values(images: Sequence[PreparedImage], column: str, needed_for: str) -> list[str | None]:
    if column == LABEL:
        return [image.record.label for image in images]
    values = [image.metadata.get(column) for image in images]
    if column == DATE:  # that of a DICOM header is no metadata: it is not written out
        values = [value or image.prepared.date for value, image in zip(values, images, strict=True)]
    if not any(values):
        present = sorted({name for image in images for name in image.metadata})
        raise UserError(
            f"{needed_for}: the source has no column {column!r}; its columns are: {', '.join(present) or 'none'}"
        )
    return values


def _tested(images: Sequence[PreparedImage], split: SplitSection) -> dict[str, bool] | None:
    """File -> whether it is on the test side of the boundary; None where there is no boundary.

    Raises:
        UserError: a value that no image has, or a date that does not read or is too coarse.
    """
    if not split.has_boundary or split.column is None:
        return None
    files = [image.record.file for image in images]
    given = [image.record.file for image in images if image.record.split]
    if given:
        raise UserError(
            f"split.by={split.column} says what is tested, and the source gives splits itself (such as {given[0]}); "
            "take its splits away"
        )
    values = _values(images, split.column, needed_for=f"split.by={split.column}")
    if split.test_values:
        absent = [value for value in split.test_values if value not in values]
        if absent:
            # Dates may be those of headers, which are told nowhere.
            known = "" if split.column == DATE else f"; there are {', '.join(sorted(set(values))[:20])}"
            raise UserError(f"split.test_values: no image has {split.column}={absent[0]!r}{known}")
        return {file: value in split.test_values for file, value in zip(files, values, strict=True)}
    boundary = dates.parse(split.after, "split.after")
    found: dict[str, bool] = {}
    for file, value in zip(files, values, strict=True):
        after = dates.is_after(dates.parse(value, f"{file}, {split.column}"), boundary)
        if after is None:
            raise UserError(
                f"{file}: {split.column}={value} does not tell whether it is after {split.after}; give the date in "
                "full, or a coarser split.after"
            )
        found[file] = after
    return found


def _divided(images: Sequence[PreparedImage], groups: Mapping[str, str], *, allowed: bool) -> set[str]:
    """The groups that are given several splits.

    Raises:
        UserError: there are some, and that is not allowed.
    """
    names = [groups[image.record.file] for image in images]
    given = [image.record.split for image in images]
    if not allowed:
        check_given_splits(names, given, [image.record.file for image in images])
    demanded = defaultdict(set)
    for name, split in zip(names, given, strict=True):
        demanded[name].add(split)
    return {name for name, splits in demanded.items() if len(splits - {None}) > 1}


def _deal(
    kept: Sequence[PreparedImage],
    groups: Mapping[str, str],
    divided: set[str],
    settings: PrepareSettings,
    repeat: int,
) -> list[str]:
    """The split of each image, by one deal of whole groups, or of what leaks as it was asked for."""

    def unit(image: PreparedImage) -> str:
        file, group = image.record.file, groups[image.record.file]
        alone = settings.split.by == IMAGE or (group in divided and image.record.split)
        return f"{group}\0{file}" if alone else group

    return assign_splits(
        [image.record.label for image in kept],
        [unit(image) for image in kept],
        settings.fractions,
        seed=settings.seed,
        given=[image.record.split for image in kept],
        files=[image.record.file for image in kept],
        columns=_columns(kept, settings.split),
        repeat=repeat,
    )


def _across(kept: Sequence[PreparedImage], groups: Mapping[str, str], tested: Mapping[str, bool]) -> set[str]:
    """The files of the test side whose group is on the other side too."""
    learned = {groups[image.record.file] for image in kept if not tested[image.record.file]}
    return {
        image.record.file
        for image in kept
        if tested[image.record.file] and groups[image.record.file] in learned
    }


def _beside_the_tested(
    kept: Sequence[PreparedImage],
    groups: Mapping[str, str],
    tested: Mapping[str, bool],
    settings: PrepareSettings,
) -> list[str]:
    """The split of each image: "test", and of the others training and validation in the ratio of their shares."""
    split = settings.split
    rest = [image for image in kept if not tested[image.record.file]]
    if not rest or len(rest) == len(kept):
        side = "learned from" if not rest else "tested"
        raise UserError(
            f"split.by={split.column}: no image is left to be {side}; choose another "
            f"{'split.after' if split.after else 'split.test_values'}"
        )
    share = split.train / (split.train + split.val)
    found = assign_splits(
        [image.record.label for image in rest],
        [groups[image.record.file] for image in rest],
        {"train": share, "val": 1 - share},
        seed=settings.seed,
        columns=_columns(rest, split),
    )
    of_rest = {image.record.file: name for image, name in zip(rest, found, strict=True)}
    return [of_rest.get(image.record.file, "test") for image in kept]


def _columns(images: Sequence[PreparedImage], split: SplitSection) -> list[list[str]] | None:
    """The levels of each image in the columns that are stratified; None for the class alone."""
    if split.stratify == (LABEL,):
        return None
    return [
        strata.levels(_known_values(images, column, f"split.stratify={split.stratify}"))
        for column in split.stratify
    ]


def _check_sides(splits: Sequence[str], groups: Mapping[str, str], settings: PrepareSettings) -> None:
    """Raises UserError where whole values of a column, or groups, are too few for the splits that are asked for."""
    wanted = [name for name, share in settings.fractions.items() if share > 0]
    empty = [name for name in wanted if name not in splits]
    split = settings.split
    if empty and (split.folds or (split.column is not None and not split.has_boundary)):
        raise UserError(
            f"split {empty[0]} is empty: there are {len(set(groups.values()))} groups for {len(wanted)} splits. Groups "
            f"join what shares a patient, a copy{f' or a {split.column}' if split.column else ''}, directly or through "
            "others; take fewer splits, or split by something finer"
        )


def _mark(
    kept: Sequence[PreparedImage],
    groups: Mapping[str, str],
    audit: Audit,
    images: Sequence[PreparedImage],
    deals: Sequence[Sequence[str]],
    divided: set[str],
    split: SplitSection,
) -> leaky.Mark | None:
    """The mark of a split that was allowed to leak; None where it does not."""
    place = {image.record.file: number for number, image in enumerate(images)}
    places = [place[image.record.file] for image in kept]
    whole = [groups[image.record.file] for image in kept]
    if split.by == IMAGE:
        reason = "images were dealt one by one, whoever's they are (split.by=image)"
    elif divided and any(_shared(whole, splits, splits) for splits in deals):
        of_column = "" if split.column is None else f", or a {split.column},"
        reason = f"the given split divides patients or copies{of_column} (split.allow_leaky)"
    else:
        return None
    keys = {
        "leaking": whole,
        "patient": [image.patient_id for image in kept],
        "pixels": [image.prepared.sha256 for image in kept],
    }
    if audit.searched:
        keys["near_copy"] = [str(audit.pictures[number]) for number in places]
    marks = []
    for splits in deals:
        judged = splits if split.folds else ["test" if name == "test" else "" for name in splits]
        counts = {"tested": sum(map(bool, judged))}
        counts |= {kind: len(_shared(values, splits, judged)) for kind, values in keys.items()}
        if "near_copy" in counts:  # identical images are told by themselves
            near = _shared(keys["near_copy"], splits, judged) - _shared(keys["pixels"], splits, judged)
            counts["near_copy"] = len(near)
        marks.append({"reason": reason, "counts": counts})
    return leaky.together(marks)


def _shared(values: Sequence[str], splits: Sequence[str], judged: Sequence[str]) -> set[int]:
    """The images that are judged and share a value with one in another split."""
    of = defaultdict(set)
    for value, name in zip(values, splits, strict=True):
        of[value].add(name)
    return {
        number
        for number, (value, name) in enumerate(zip(values, judged, strict=True))
        if name and of[value] - {name}
    }
