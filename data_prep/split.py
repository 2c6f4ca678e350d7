"""Splits that cannot leak: no patient and no image content is ever on two sides.

Images are joined into groups (connected components over shared patients and shared content); whole groups are
then dealt to the splits so that every class keeps the asked-for ratios.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from data_prep import strata
from data_prep.components import Components
from osteojax.errors import UserError
from osteojax.folds import fold_count


def connected_groups(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Joins items that share a key, directly or through others.

    Args:
        keys: for each item, what ties it to others: its patient, the hash of its pixels, a near-duplicate pair.

    Returns:
        For each item the index of the first item of its connected component.
    """
    components = Components(len(keys))
    first_with: dict[Hashable, int] = {}
    for item, item_keys in enumerate(keys):
        for key in item_keys:
            components.join(first_with.setdefault(key, item), item)
    return [components.find(item) for item in range(len(keys))]


def assign_splits(
    labels: Sequence[str],
    groups: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    given: Sequence[str | None] | None = None,
    files: Sequence[str] | None = None,
    columns: Sequence[Sequence[str]] | None = None,
    repeat: int = 0,
) -> list[str]:
    """Deals whole groups to splits, stratified by class or by several columns.

    Groups go from the largest to the smallest (ties in an order drawn from `seed`), each to the split that
    still lacks most of the group's classes: that lowers the sum of the squared differences to the shares most.
    Where each group holds one class, no split's count of a class is further from its share than the size of that
    class's largest group, unless a group had to be moved so that every split has the class. Of several columns
    the levels of each count, and those of all together. The result depends on the labels, the group names and the
    seed, not on the order of the images.

    Args:
        labels: class of each image.
        groups: group of each image; a group is never divided.
        fractions: split -> share of the images, positive shares adding up to 1; zero leaves the split out.
        seed: which of the equally good splits.
        given: for each image the split that its source demands, or None. A group with a given split goes there
            as a whole; the rest is dealt so that the totals fit.
        files: what to call each image in an error; by default its number.
        columns: that are stratified, levels of each image; by default the classes alone.
        repeat: the how manieth deal. Further ones shuffle groups of like size, not only those of equal size, or
            groups that are all of different sizes would be dealt alike each time.

    Returns:
        For each image its split.

    Raises:
        UserError: bad fractions, or one group that is given two splits.
    """
    _check_fractions(fractions)
    names = [name for name, fraction in fractions.items() if fraction > 0]
    folds = fold_count(fractions)
    counts = _counts([(label,) for label in labels], groups)
    wants = counts if columns is None else _counts(strata.cells(columns), groups)
    totals = np.sum(list(wants.values()), axis=0)

    assigned = check_given_splits(groups, given or [None] * len(groups), files or range(len(groups)))
    names += [name for name in sorted(set(assigned.values())) if name not in names]
    shares = np.array([fractions.get(name, 0.0) for name in names])
    missing = shares[:, None] * totals[None, :]  # (split, class): images still wanted
    for group, name in assigned.items():
        missing[names.index(name)] -= wants[group]

    def turn(group: str) -> tuple[int, bytes]:
        size = int(counts[group].sum())
        return (
            (-size.bit_length(), _lot(f"{seed}/{repeat}", group))
            if repeat
            else (-size, _lot(str(seed), group))
        )

    movable = sorted(set(counts) - set(assigned), key=turn)
    for group in movable:
        wanted = missing @ (wants[group] / wants[group].sum())
        wanted[shares == 0] = -np.inf
        if folds:
            # Equal shares tie all the time; then to the fold that lacks most altogether, or what each class leaves over
            # would pile up in the first. Other splits tie seldom, and stay what earlier releases made them.
            wanted = np.round(wanted, 6) + 1e-9 * missing.sum(axis=1)
        best = int(np.argmax(wanted))
        assigned[group] = names[best]
        missing[best] -= wants[group]
    _fill_empty_classes(assigned, counts, movable, [n for n in names if fractions.get(n, 0.0) > 0])
    return [assigned[group] for group in groups]


def missing_classes(labels: Sequence[str], splits: Sequence[str]) -> dict[str, list[str]]:
    """Split -> classes of the data set of which it has no image; splits that have all are left out."""
    present = defaultdict(set)
    for label, split in zip(labels, splits, strict=True):
        present[split].add(label)
    everything = set(labels)
    return {s: sorted(everything - has) for s, has in sorted(present.items()) if everything - has}


def _check_fractions(fractions: Mapping[str, float]) -> None:
    values = list(fractions.values())
    leaves_nothing = not fractions.get("train") and not fold_count(fractions)
    if any(not 0 <= v <= 1 for v in values) or abs(sum(values) - 1) > 1e-6 or leaves_nothing:
        shown = ", ".join(f"{name}={value:g}" for name, value in fractions.items())
        raise UserError(
            f"split fractions must lie in [0, 1], add up to 1, and give train a share; got {shown}"
        )


def check_given_splits(
    groups: Sequence[str], given: Sequence[str | None], files: Sequence[object]
) -> dict[str, str]:
    """Group -> the split that its images are given.

    Args:
        groups: group of each image.
        given: for each image the split that its source demands, or None.
        files: what to call each image in an error.

    Raises:
        UserError: one group that is given two splits.
    """
    first: dict[str, tuple[str, object]] = {}
    for group, name, file in zip(groups, given, files, strict=True):
        if name is None:
            continue
        before, before_file = first.setdefault(group, (name, file))
        if before != name:
            raise UserError(
                f"the given splits leak: {before_file} ({before}) and {file} ({name}) belong to one group, "
                "by patient, by identical pixels or as near copies. Give them one split, or drop the split column"
            )
    return {group: name for group, (name, _) in first.items()}


def _counts(cells: Sequence[Sequence[Hashable]], groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Group -> how many of its images add to each cell."""
    places = {cell: place for place, cell in enumerate(sorted({c for of in cells for c in of}, key=repr))}
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(places)))
    for of, group in zip(cells, groups, strict=True):
        for cell in of:
            counts[group][places[cell]] += 1
    return dict(counts)


def _lot(seed: str, group: str) -> bytes:
    """A place in the queue that depends on nothing but the seed and the group's name."""
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()


def _fill_empty_classes(
    assigned: dict[str, str], counts: Mapping[str, np.ndarray], movable: Sequence[str], names: Sequence[str]
) -> None:
    """Moves the smallest fitting group wherever a split has none of a class and another can spare one."""
    for index in range(len(next(iter(counts.values())))):
        holding = Counter(assigned[g] for g in counts if counts[g][index])
        for name in names:
            donors = [
                g
                for g in reversed(movable)  # smallest first
                if counts[g][index] == counts[g].sum() and counts[g][index] and holding[assigned[g]] > 1
            ]
            if holding[name] or not donors:
                continue
            donor = max(donors, key=lambda g: holding[assigned[g]])
            holding[assigned[donor]] -= 1
            holding[name] += 1
            assigned[donor] = name
