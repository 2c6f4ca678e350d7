"""A search file, and the space of configs that it stands for.

A search file is Python: a docstring that says command, cost and what was found, and

    TRAIN = "configs/train/paper_resnet50.py"     # the experiment that all trials share
    PREP = "configs/prep/prep.py"                 # the preparation; only where it prepares
    METRIC = "balanced_accuracy"                  # of validation: what is searched for
    FOLDS = 5                                     # where given: a search of its own for each fold that is tested
    REPEATS = 3                                   # of the folds' deals
    INNER = 4                                     # folds that validate each trial in turn; their mean is searched for

    def space():
        return {"optimizer.learning_rate": log_uniform(1e-5, 1e-2), "preset": choice("head", "stage4")}
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import ml_collections

from osteojax import config as configs
from osteojax import folds
from osteojax.data.dataset import NO_SPLIT
from osteojax.errors import UserError
from osteojax.metrics.registry import Direction, scalar
from osteojax.sweep.plan import PREP_PREFIX, Common, common

if TYPE_CHECKING:
    import optuna

Value = str | int | float | bool
# What a search must not choose: it could choose by the test.
_DECIDES = ("fold", "repeat", "val_fold", "eval.split", "data.dir", "transfer.allow_overlap")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def suggest(self, trial: "optuna.Trial", key: str) -> Value:
        """A value of a trial."""
        return cast(Value, trial.suggest_categorical(key, list(self.values)))


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two, both included; whole numbers where both are."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: "optuna.Trial", key: str) -> Value:
        """A value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


def choice(*values: Value) -> Choice:
    """One of `values`."""
    if not values:
        raise UserError("choice() needs the values to choose from")
    return Choice(values)


def uniform(low: float, high: float) -> Range:
    """A number from `low` to `high`, all alike; of two whole numbers a whole number."""
    return _range(low, high, log=False)


def log_uniform(low: float, high: float) -> Range:
    """A number from `low` to `high`, each power of ten alike; of two whole numbers a whole number."""
    return _range(low, high, log=True)


def _range(low: float, high: float, *, log: bool) -> Range:
    if not low < high or (log and low <= 0):
        raise UserError(f"a range from {low!r} to {high!r} has nothing in it" + (" above 0" if log else ""))
    return Range(low, high, log)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Common):
    """What a search file says; `metric` is of validation.

    Attributes:
        space: dotted key of the training config -> what it may be.
        inner: how many of the folds that are not tested validate each trial in turn.
    """

    space: Mapping[str, Choice | Range]
    inner: int = 1

    @property
    def direction(self) -> Direction:
        """ "max" or "min": of the metric."""
        return scalar(self.metric).direction

    def config(
        self, values: Mapping[str, Value], tested: folds.Tested, seed: int, overrides: Sequence[str] = ()
    ) -> ml_collections.ConfigDict:
        """The training config of a trial, the data's folder left open.

        Args:
            values: dotted key -> value, of `space`.
            tested: of the dataset's folds.
            seed: of the training.
            overrides: `--config.key=value` for every trial; the values come after them.

        Raises:
            UserError: no such key.
        """
        config = configs.load(self.train, overrides)
        chosen = {**values, "best.metric": self.metric, "best.mode": "auto", "seed": seed, **tested.keys}
        for key, value in chosen.items():
            configs.set_value(config, key, value)
        return config

    def any_config(self, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
        """The config of some point of the space: any tells whether its keys are there.

        Raises:
            UserError: they are not.
        """
        values = {key: _any(given) for key, given in self.space.items()}
        return self.config(values, folds.Tested(), 0, overrides)


def load_search(path: str) -> Search:
    """Reads a search file.

    Raises:
        UserError: no such file, it does not run, or what it says does not fit together.
    """
    file = configs.find(path)
    values, space = configs.run_file(
        file, lambda module: (vars(module), dict(module.space())), what="search", function="space"
    )
    search = Search(**common(values, file), space=space, inner=values.get("INNER", 1))
    check_inner(search, f"{file}: INNER")
    for key, given in space.items():
        if not isinstance(given, Choice | Range):
            raise UserError(
                f"{file}: space() gives {key!r} a {type(given).__name__}; take choice, uniform or log_uniform of "
                "osteojax.sweep.space"
            )
        if key.startswith(PREP_PREFIX):
            raise UserError(
                f"{file}: {key!r} is of the preparation, which a search leaves as it is; make it a sweep"
            )
        if key in _DECIDES:
            raise UserError(
                f"{file}: {key!r} says what is learned from, validated and tested; a search that chose it could "
                "choose by the test. Leave it out of space()"
            )
    if not space:
        raise UserError(f"{file}: space() is empty: there is nothing to search")
    search.any_config()
    return search


def check_inner(search: Search, where: str) -> None:
    """Raises UserError for a number of folds to validate in turn that are not left beside the tested one."""
    most = max(1, search.folds - 1)
    if not isinstance(search.inner, int) or not 1 <= search.inner <= most:
        raise UserError(
            f"{where}={search.inner!r} with {search.folds} folds: so many of those that are not tested validate each "
            f"trial in turn, 1 to {most}"
        )


def check_chooser(search: Search, overrides: Sequence[str]) -> None:
    """Raises UserError where anything but validation would choose."""
    split = search.any_config(overrides).eval.split
    if split in ("test", "train", NO_SPLIT):
        raise UserError(
            f"eval.split={split!r}: a search is decided by validation, which is a split of its own; name it, as in "
            "--config.eval.split=val"
        )


def _any(given: Choice | Range) -> Value:
    return given.values[0] if isinstance(given, Choice) else given.low
