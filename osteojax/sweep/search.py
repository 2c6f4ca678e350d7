"""Searches a space of configs by validation alone: trials of optuna, poor ones stopped early.

Each trial is what a person would type: `osteojax train`, in a folder of its own. Its objective is the best value of the
metric on validation, which also chooses its checkpoint. The test split is read once, by the trial that is chosen in the
end. In cross-validation each fold that is tested has a search of its own, among runs that never see it (nested). With
`inner` each trial is several runs, whose folds validate in turn; the trial is as good as their mean. Of the trial that
is chosen the first of them, which is what `osteojax train --config.fold=K` would give, is tested.

The study lies in the search's folder (`study.log`, optuna's journal). Started again, a search goes on; a trial that was
killed goes on from its last checkpoint.
"""

import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from osteojax import config as configs
from osteojax import folds, leaky
from osteojax.errors import UserError
from osteojax.files import write_atomically, write_csv
from osteojax.sweep.execute import MOST_RESTARTS, TRY_AGAIN, alone, caller, last_lines, prepare, write_config
from osteojax.sweep.plan import preparation, preparation_folder
from osteojax.sweep.space import Search, Value, check_chooser

log = logging.getLogger(__name__)

# Trials before one is compared with the median of the others, and evaluations of a trial before that.
_COMPARED_FROM, _WARM_UP = 5, 1
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a search chose for one test split.

    Attributes:
        tested: of the dataset's folds.
        number: of the trial.
        values: dotted key -> value.
        validation: its best value of the metric; the mean over the folds that validated.
        folder: of the run, evaluated on the test split.
    """

    tested: folds.Tested
    number: int
    values: Mapping[str, Value]
    validation: float
    folder: Path


def search(
    found: Search,
    out: Path,
    trials: int,
    *,
    source: str | None = None,
    prepared: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    osteojax: Sequence[str] = (sys.executable, "-m", "osteojax"),
) -> list[Chosen]:
    """Runs trials until there are so many, and evaluates the best of them on the test split.

    Args:
        found: what the file says.
        out: folder of the search.
        trials: of each fold, in all starts together; pruned ones count, failed ones do not.
        source: of the radiographs, where it prepares.
        prepared: a dataset, in place of preparing.
        seed: of the training and of the sampler.
        overrides: `--config.key=value` for every trial.
        osteojax: the command line, for tests.

    Returns:
        One choice a fold.

    Raises:
        UserError: the search is running already, it cannot prepare, or trials fail one after the other.
    """
    if trials < 1:
        raise UserError(f"--trials={trials} must be 1 at least")
    check_chooser(found, overrides)
    out.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    with alone(out / "lock.search") as is_alone:
        if not is_alone:
            raise UserError(f"a search is running in {out} already")
        call = caller(out / "search.log", cores, osteojax)
        data = prepared or _prepared(found, out, source, call)
        chosen = []
        for tested in folds.tested(found.folds, found.repeats):
            study = open_study(found, out, tested, seed)
            run = _Runs(found, out, study, tested, data, seed, overrides, cores, osteojax)
            run.until(trials)
            chosen.append(run.choose())
    write_trials(found, out, chosen)
    return chosen


def open_study(found: Search, out: Path, tested: folds.Tested, seed: int) -> optuna.Study:
    """The study of what is tested, new or as it was left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / "study.log")))
    name = "-".join((found.name, *tested.folder.parts))
    if found.inner > 1:  # other values of other runs: no trial of the one is one of the other
        name += f"-inner{found.inner}"
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize" if found.direction == "max" else "minimize",
        sampler=_sampler(seed, 0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_COMPARED_FROM, n_warmup_steps=_WARM_UP),
        load_if_exists=True,
    )


def _sampler(seed: int, asked: int) -> optuna.samplers.BaseSampler:
    """By the number of the trial: a search that is started again must not draw the same values again."""
    return optuna.samplers.TPESampler(seed=(seed * 1_000_003 + asked) % 2**32)


class _Runs:
    """The trials of one study."""

    def __init__(
        self,
        found: Search,
        out: Path,
        study: optuna.Study,
        tested: folds.Tested,
        data: str,
        seed: int,
        overrides: Sequence[str],
        cores: Sequence[int],
        osteojax: Sequence[str],
    ) -> None:
        self._found, self._out, self._study, self._tested = found, out, study, tested
        self._data, self._seed, self._overrides = data, seed, overrides
        self._cores, self._osteojax = cores, osteojax

    def until(self, trials: int) -> None:
        """Runs trials until so many are complete or pruned."""
        for left in self._study.get_trials(states=(TrialState.RUNNING,)):
            # Whoever ran it is gone: the search's lock is ours. Its values are tried again, in the same folder.
            self._study.tell(left.number, state=TrialState.FAIL)
            self._study.enqueue_trial(left.params)
            log.info("trial %d was interrupted; it goes on", left.number)
        failed = 0
        while len(self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))) < trials:
            self._study.sampler = _sampler(self._seed, len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask()
            reason = self._run(trial)
            failed = failed + 1 if reason else 0
            if failed == _COMPARED_FROM:
                raise UserError(
                    f"{failed} trials failed one after the other; the last lines of "
                    f"{self._folder(trial.params) / 'run.log'}:\n{reason}"
                )

    def choose(self) -> Chosen:
        """The best trial, evaluated on the test split."""
        complete = self._study.get_trials(states=(TrialState.COMPLETE,))
        if not complete:
            raise UserError(f"no trial of {self._study.study_name} is complete; give more --trials")
        best = self._study.best_trial
        folder = self._folder(best.params)
        if not (folder / "eval" / "test" / "metrics.json").is_file():
            call = caller(folder / "run.log", self._cores, self._osteojax)
            if call(["evaluate", f"--workdir={folder}"]):
                raise UserError(f"the chosen run cannot be evaluated:\n{last_lines(folder / 'run.log')}")
        assert best.value is not None
        return Chosen(self._tested, best.number, best.params, best.value, folder)

    def _folder(self, values: Mapping[str, Value], validates: int = folds.NONE) -> Path:
        """By what it is: a trial that is tried again finds its checkpoints."""
        return self._out / "trials" / configs.digest(self._config(values, validates))[:16]

    def _config(self, values: Mapping[str, Value], validates: int = folds.NONE) -> ml_collections.ConfigDict:
        tested = self._tested._replace(validates=validates)
        config = self._found.config(values, tested, self._seed, self._overrides)
        config.data.dir = self._data
        return config

    def _validating(self) -> list[int]:
        """The folds that validate in turn; the first is the one that validates by default, and is called so."""
        count = self._found.folds
        in_turn = folds.validating(self._tested.fold, count, self._found.inner) if count else [folds.NONE]
        return [folds.NONE, *in_turn[1:]]

    def _run(self, trial: optuna.Trial) -> str:
        """Trains a trial and tells the study; the last lines of its log where it failed."""
        values = {key: one.suggest(trial, key) for key, one in self._found.space.items()}
        trial.set_user_attr("folder", str(self._folder(values).relative_to(self._out)))
        told = ", ".join(f"{key}={value}" for key, value in values.items())
        log.info("trial %d: %s", trial.number, told)
        found = []
        for validates in self._validating():
            value, reason = self._validated(trial, values, validates)
            if value is None:
                return reason
            found.append(value)
        mean = sum(found) / len(found)
        self._study.tell(trial, mean)
        log.info("trial %d: %s %.4g", trial.number, self._found.metric, mean)
        return ""

    def _validated(
        self, trial: optuna.Trial, values: Mapping[str, Value], validates: int
    ) -> tuple[float | None, str]:
        """The best validation of one run of a trial. None where the trial ends with it, which the study is then told;
        and the last lines of its log where it failed. The first run alone can be found poor: the median is of its like.
        """
        folder, config = self._folder(values, validates), self._config(values, validates)
        folder.mkdir(parents=True, exist_ok=True)
        file = write_config(folder / "config.py", config)
        key = f"{config.eval.split}/{self._found.metric}"
        reported, pruned = 0, False

        def report() -> list[float]:
            """Tells the study what came since the last look; the best values up to each evaluation so far."""
            nonlocal reported
            seen = best_so_far(folder / "metrics.jsonl", key, self._found.direction)
            for number in range(reported, len(seen) if validates == folds.NONE else 0):
                trial.report(seen[number], number)
            reported = len(seen)
            return seen

        def stop() -> bool:
            nonlocal pruned
            pruned = bool(report()) and validates == folds.NONE and trial.should_prune()
            return pruned

        call = caller(folder / "run.log", self._cores, self._osteojax, stop)
        code = TRY_AGAIN
        for _ in range(MOST_RESTARTS):
            code = call(["train", f"--config={file}", f"--workdir={folder}"])
            if code != TRY_AGAIN or pruned:
                break
        seen = report()
        if code == TRY_AGAIN and pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            log.info("trial %d: stopped at %.4g, poorer than the median", trial.number, seen[-1])
            return None, ""
        if code or not seen:
            self._study.tell(trial, state=TrialState.FAIL)
            reason = last_lines(folder / "run.log")
            log.warning("trial %d failed; the search goes on. Its last lines:\n%s", trial.number, reason)
            return None, reason or f"no {key} in {folder / 'metrics.jsonl'}"
        return seen[-1], ""


def best_so_far(path: Path, key: str, direction: str) -> list[float]:
    """The best value of `key` up to each of its lines in a metrics.jsonl; values that are not defined do not count."""
    found: list[float] = []
    if not path.is_file():
        return found
    better = max if direction == "max" else min
    for line in path.read_text().splitlines():
        try:
            value = json.loads(line).get(key)
        except ValueError:  # it is being written
            break
        if value is not None and math.isfinite(value):
            found.append(better(value, found[-1]) if found else float(value))
    return found


def write_trials(found: Search, out: Path, chosen: Sequence[Chosen]) -> None:
    """`trials.csv` and `search.json` of a search; with the mark where a leaky split had a part in it."""
    mark = leaky.together(map(_mark, chosen))
    marked = [] if mark is None else [mark["reason"]]
    write_csv(
        out / "trials.csv",
        [*HEADER, *found.space, "folder", *[leaky.KEY] * len(marked)],
        ([*row, *marked] for row in rows(found, out)),
    )
    record: dict[str, Any] = {
        "search": found.name,
        "metric": found.metric,
        "inner": found.inner,
        leaky.KEY: mark,
        "chosen": [
            {
                **one.tested._asdict(),
                "number": one.number,
                "values": dict(one.values),
                "validation": one.validation,
                "folder": str(one.folder.relative_to(out)),
            }
            for one in chosen
        ],
    }
    write_atomically(out / "search.json", json.dumps(record, indent=2) + "\n")


def _mark(one: Chosen) -> leaky.Mark | None:
    return leaky.of(json.loads((one.folder / "eval" / "test" / "metrics.json").read_text()))


HEADER = ("fold", "trial", "state", "validation")


def rows(found: Search, out: Path) -> list[list[str]]:
    """The trials of all folds, as `trials.csv` has them."""
    table = []
    for tested in folds.tested(found.folds, found.repeats):
        for trial in open_study(found, out, tested, 0).get_trials():
            seen = trial.intermediate_values
            last = trial.value if trial.value is not None else seen[max(seen)] if seen else None
            table.append(
                [
                    str(tested).removeprefix("fold "),
                    str(trial.number),
                    _STATES[trial.state],
                    "" if last is None else f"{last:.4f}",
                    *(str(trial.params.get(key, "")) for key in found.space),
                    trial.user_attrs.get("folder", ""),
                ]
            )
    return table


def _prepared(found: Search, out: Path, source: str | None, call: Callable[[list[str]], int]) -> str:
    if found.prep is None:
        raise UserError(f"search {found.name} prepares nothing: give the dataset with --data_dir")
    config = preparation(found)
    folder = out / preparation_folder(config)
    if prepare(config, folder, source, call):
        raise UserError(f"preparation failed:\n{last_lines(out / 'search.log')}")
    return str(folder)
