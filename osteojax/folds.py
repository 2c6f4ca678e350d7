"""Cross-validation: a dataset of folds `fold0`, `fold1`, ..., each tested in turn while another one validates.

Repeated: the same images are dealt anew, several times. The shards hold the folds of the first deal, `repeat` 0; the
manifest says of every deal which fold an image is in.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from osteojax.errors import UserError

# One to test, one to validate, one to learn from.
FEWEST = 3
# No fold: the dataset has a training, a validation and a test split of its own.
NONE = -1


class Tested(NamedTuple):
    """What of a dataset of folds a run tests and validates.

    Attributes:
        fold: that is tested; NONE where the dataset has a test split of its own.
        repeat: the deal, from 0.
        validates: the fold that validates; NONE for the one after `fold`.

    Its text names it: "repeat 1, fold 2", and nothing where there are no folds.
    """

    fold: int = NONE
    repeat: int = 0
    validates: int = NONE

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Tested":
        """From a run's config, of this release or an earlier one."""
        return cls(
            int(config.get("fold", NONE)), int(config.get("repeat", 0)), int(config.get("val_fold", NONE))
        )

    def __str__(self) -> str:
        words = [f"repeat {self.repeat}"] * (self.repeat > 0) + [f"fold {self.fold}"] * (self.fold != NONE)
        return ", ".join(words)

    @property
    def folder(self) -> Path:
        """Where a run of it lies among its like: `repeat1/fold2`."""
        parts = [column(self.repeat)] * (self.repeat > 0) + [fold_name(self.fold)] * (self.fold != NONE)
        return Path(*parts)

    @property
    def keys(self) -> dict[str, int]:
        """Its keys of a training config."""
        return (
            {}
            if self.fold == NONE
            else {"fold": self.fold, "repeat": self.repeat, "val_fold": self.validates}
        )


def fold_name(fold: int) -> str:
    """Name of the split that a fold is."""
    return f"fold{fold}"


def column(repeat: int) -> str:
    """The manifest's column that has the folds of a deal."""
    return f"repeat{repeat}" if repeat else "split"


def fold_count(splits: Collection[str]) -> int:
    """How many folds these splits are; 0 where they are something else."""
    count = len(splits)
    return count if count and set(splits) == {fold_name(fold) for fold in range(count)} else 0


def tested(count: int, repeats: int = 1) -> list[Tested]:
    """The folds that are tested in turn, of each deal; no fold where the dataset has a test split of its own."""
    return (
        [Tested(fold, repeat) for repeat in range(repeats) for fold in range(count)] if count else [Tested()]
    )


def validating(fold: int, count: int, inner: int) -> list[int]:
    """The folds that validate in turn while `fold` of `count` is tested: `inner` of them, from the next one on."""
    return [(fold + step) % count for step in range(1, inner + 1)]


def parts(fold: int, count: int, validates: int = NONE) -> dict[str, tuple[str, ...]]:
    """Split -> the folds that it consists of where `fold` of `count` is tested.

    Raises:
        UserError: no such fold is left to validate: what is tested must not choose.
    """
    chosen = (fold + 1) % count if validates == NONE else validates
    if chosen == fold or not 0 <= chosen < count:
        raise UserError(
            f"val_fold={validates} with fold={fold} of {count}: a fold validates that is there and is not tested, or "
            "the test would choose; name another, or leave val_fold at -1 for the next one"
        )
    learning = tuple(fold_name(other) for other in range(count) if other not in (fold, chosen))
    return {"train": learning, "val": (fold_name(chosen),), "test": (fold_name(fold),)}
