"""A sweep file, and the runs that it stands for.

A sweep file is Python: a docstring that says command, cost and what was found, and

    TRAIN = "configs/train/paper_resnet50.py"     # the experiment that all runs share
    PREP = "configs/prep/prep.py"                 # the preparation; only where runs prepare
    BASELINE = "stage3+"                          # the name that the others are compared with
    SEEDS = (0, 1, 2)                             # every variant is run with each
    FOLDS = 5                                     # and, where given, on each fold, whose predictions are pooled
    REPEATS = 3                                   # of the folds' deals, each a repetition
    METRIC = "balanced_accuracy"                  # what the comparison's first table is about

    def variants():
        yield "stage4", {"preset": "stage4"}                  # keys of the training config
        yield "no denoising", {"prep.denoise.name": "none"}   # or, behind `prep.`, of the preparation
"""

import dataclasses
import hashlib
import itertools
import json
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from osteojax import config as configs
from osteojax import folds
from osteojax.errors import UserError
from osteojax.metrics.registry import scalar

# What a sweep file's variants() yields: names, and dotted keys with their values.
Variants = Iterable[tuple[str, Mapping[str, Any]]]

PREP_PREFIX = "prep."
_NAME = re.compile(r"[\w.+=-][\w.+= -]*")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One point of a sweep.

    Attributes:
        name: unique; also the name of its folder.
        train: dotted key of the training config -> value.
        prep: the same of the preparation config.
    """

    name: str
    train: Mapping[str, Any]
    prep: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What a sweep file and a search file both say.

    Attributes:
        name: of the file.
        text: its docstring.
        train, prep: config files; `prep` is None where nothing is prepared.
        folds: of the dataset; 0 where it has a test split of its own.
        repeats: how many times they are dealt.
        metric: a registered scalar metric.
    """

    name: str
    text: str
    train: str
    prep: str | None
    folds: int
    repeats: int
    metric: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Common):
    """What a sweep file says.

    Attributes:
        baseline: name of a variant.
        seeds: of every variant.
        variants: in the order of the file.
    """

    baseline: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run: a variant with a seed.

    Attributes:
        variant: its name.
        seed: of the run.
        tested: of the dataset's folds.
        folder: relative to the sweep's: `runs/<variant>/seed<seed>`, and `/repeat<repeat>/fold<fold>` in it.
        config: of the training, the data's folder left open.
        prep: of the preparation; None where the dataset is given.
    """

    variant: str
    seed: int
    tested: folds.Tested
    folder: Path
    config: ml_collections.ConfigDict
    prep: ml_collections.ConfigDict | None

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(filter(None, (self.variant, f"seed {self.seed}", str(self.tested))))


def load_sweep(path: str) -> Sweep:
    """Reads a sweep file.

    Raises:
        UserError: no such file, it does not run, or what it says does not fit together.
    """
    file = configs.find(path)

    def read(module: types.ModuleType) -> tuple[dict[str, Any], list[Variant]]:
        return vars(module), [_variant(str(name), dict(overrides)) for name, overrides in module.variants()]

    values, variants = configs.run_file(file, read, what="sweep", function="variants")
    sweep = Sweep(
        **common(values, file),
        baseline=values.get("BASELINE", ""),
        seeds=tuple(values.get("SEEDS", (0,))),
        variants=tuple(variants),
    )
    _check(sweep, file)
    return sweep


def common(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The fields of `Common`, from the names that a file defines.

    Raises:
        UserError: no training config, or a number of folds or a metric that there is not.
    """
    if not values.get("TRAIN"):
        raise UserError(f'{file}: TRAIN names the training config, as in TRAIN = "configs/train/demo.py"')
    found = {
        "name": file.stem,
        "text": (values["__doc__"] or "").strip(),
        "train": values["TRAIN"],
        "prep": values.get("PREP"),
        "folds": values.get("FOLDS", 0),
        "repeats": values.get("REPEATS", 1),
        "metric": values.get("METRIC", "balanced_accuracy"),
    }
    check_folds(found["folds"], found["repeats"], f"{file}: FOLDS", f"{file}: REPEATS")
    scalar(found["metric"])
    return found


def _variant(name: str, overrides: Mapping[str, Any]) -> Variant:
    prep = {
        key.removeprefix(PREP_PREFIX): value
        for key, value in overrides.items()
        if key.startswith(PREP_PREFIX)
    }
    return Variant(name, {k: v for k, v in overrides.items() if not k.startswith(PREP_PREFIX)}, prep)


def _check(sweep: Sweep, file: Path) -> None:
    names = [variant.name for variant in sweep.variants]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"{file}: variants() must yield at least one variant, each with a name of its own")
    for name in names:
        if not _NAME.fullmatch(name) or name.strip(". ") != name:
            raise UserError(f"{file}: a variant's name is also its folder's: {name!r} has other characters")
    if sweep.baseline not in names:
        raise UserError(f"{file}: BASELINE={sweep.baseline!r} is none of the variants {', '.join(names)}")
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
        raise UserError(f"{file}: SEEDS={sweep.seeds} must be different whole numbers")
    if sweep.prep is None and any(variant.prep for variant in sweep.variants):
        raise UserError(f"{file}: a variant sets a key of the preparation; name its config with PREP")


def check_folds(count: int, repeats: int, where: str, where_repeats: str) -> None:
    """Raises UserError for a number of folds that is neither 0 nor enough, or of repetitions without folds."""
    if not isinstance(count, int) or (count and count < folds.FEWEST):
        raise UserError(f"{where}={count!r} must be {folds.FEWEST} at least, or 0 for none")
    if not isinstance(repeats, int) or repeats < 1 or (repeats > 1 and not count):
        raise UserError(
            f"{where_repeats}={repeats!r} must be 1 at least, and is of folds: say how many with {where}"
        )


def plan(sweep: Sweep, overrides: Sequence[str] = (), *, prepared: str | None = None) -> list[Planned]:
    """All runs of a sweep, every one of whose configs loads.

    Args:
        sweep: as read.
        overrides: `--config.key=value` for the training config of every run; the variants come after them.
        prepared: a dataset for all runs, in place of preparing.

    Raises:
        UserError: an override names no key or a value that does not fit.
    """
    runs = []
    for variant in sweep.variants:
        prep = None
        if prepared is None:
            if sweep.prep is None:
                raise UserError(f"sweep {sweep.name} prepares nothing: give the dataset with --data_dir")
            prep = preparation(sweep, variant.prep)
        elif variant.prep:
            raise UserError(
                f"sweep {sweep.name}: variant {variant.name!r} needs a preparation of its own; give --source, "
                "not --data_dir"
            )
        for seed, tested in itertools.product(sweep.seeds, folds.tested(sweep.folds, sweep.repeats)):
            chosen = {**variant.train, "seed": seed, **tested.keys}
            folder = Path("runs") / variant.name / f"seed{seed}" / tested.folder
            config = _with(configs.load(sweep.train, overrides), chosen)
            if prepared is not None:
                config.data.dir = prepared
            runs.append(Planned(variant.name, seed, tested, folder, config, prep))
    return runs


def preparation(found: Common, values: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """The preparation config of a file that names one, dealt into its folds; `values` are of dotted keys."""
    assert found.prep is not None
    dealt = {"split.folds": found.folds} if found.folds else {}
    dealt |= {"split.repeats": found.repeats} if found.repeats > 1 else {}
    return _with(configs.load(found.prep), {**(values or {}), **dealt})


def _with(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    for key, value in values.items():
        configs.set_value(config, key, value)
    return config


def preparation_folder(prep: ml_collections.ConfigDict) -> Path:
    """Where a sweep keeps a preparation: by what it is, so that runs that have the same share it."""
    plain = {key: value for key, value in prep.to_dict().items() if key not in ("workers", "overwrite")}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return Path("prepared") / digest[:16]
