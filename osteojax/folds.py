"""Cross-validation: a dataset of folds `fold0`, `fold1`, ..., each tested in turn while the next one validates."""

from collections.abc import Collection, Sequence

# One to test, one to validate, one to learn from.
FEWEST = 3
# No fold: the dataset has a training, a validation and a test split of its own.
NONE = -1


def fold_name(fold: int) -> str:
    """Name of the split that a fold is."""
    return f"fold{fold}"


def fold_count(splits: Collection[str]) -> int:
    """How many folds these splits are; 0 where they are something else."""
    count = len(splits)
    return count if count and set(splits) == {fold_name(fold) for fold in range(count)} else 0


def tested(count: int) -> Sequence[int]:
    """The folds that are tested in turn; NONE alone where the dataset has a test split of its own."""
    return range(count) if count else (NONE,)


def parts(fold: int, count: int) -> dict[str, tuple[str, ...]]:
    """Split -> the folds that it consists of where `fold` of `count` is tested."""
    validating = (fold + 1) % count
    learning = tuple(fold_name(other) for other in range(count) if other not in (fold, validating))
    return {"train": learning, "val": (fold_name(validating),), "test": (fold_name(fold),)}
