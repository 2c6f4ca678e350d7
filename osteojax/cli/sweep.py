"""`osteojax sweep`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from osteojax.sweep.execute import Outcome
    from osteojax.sweep.plan import Common, Sweep

File = TypeVar("File", bound="Common")

NAME = "sweep"
SUMMARY = "Run and compare ablations, or search a space; started again, it does what is not done."
EXIT_SOME_FAILED = 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--sweep", required=True, help="sweep file, as in configs/sweeps/")
    parser.add_argument("--out", required=True, type=Path, help="folder of the sweep")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--source", help="radiographs, which are prepared once for all runs that prepare alike")
    data.add_argument("--data_dir", help="a prepared dataset for all runs")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the sweep file")
    parser.add_argument("--folds", type=int, help="likewise: cross-validation, the folds' predictions pooled")
    parser.add_argument("--repeats", type=int, help="likewise: how many times the folds are dealt")
    parser.add_argument(
        "--inner",
        type=int,
        help="with --trials: of the folds that are not tested, so many validate each trial",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="runs at a time; each gets its share of the cores"
    )
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the runs to do (array jobs)")
    parser.add_argument("--status", action="store_true", help="show how the runs stand, and do nothing")
    parser.add_argument("--slurm", nargs="*", metavar="FLAG", help="submit as one array job; flags of sbatch")
    parser.add_argument("--kubernetes", metavar="IMAGE", help="apply one Job a run, in this container image")
    parser.add_argument(
        "--claim", default="osteojax", help="PersistentVolumeClaim of sweep and data on Kubernetes"
    )
    parser.add_argument(
        "--config", help="training config instead of the sweep file's; --config.key=value holds for every run"
    )
    parser.add_argument("--prep", help="preparation config instead of the sweep file's")
    parser.add_argument(
        "--trials",
        type=int,
        help="of a search file (configs/searches/), as many in all; needs the extra `search`",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    import dataclasses

    from osteojax.errors import UserError
    from osteojax.sweep import execute, plan, schedulers

    if arguments.trials is not None:
        return _search(arguments, overrides)
    if arguments.inner is not None:
        raise UserError(
            "--inner is of searches: settings are chosen by it, and a sweep chooses none; give --trials"
        )
    sweep = _as_told(plan.load_sweep(arguments.sweep), arguments)
    sweep = dataclasses.replace(sweep, seeds=tuple(arguments.seeds or sweep.seeds))
    runs = plan.plan(sweep, overrides, prepared=arguments.data_dir)
    for number in arguments.only or ():
        if number not in range(len(runs)):
            raise UserError(f"--only={number}: the sweep has {len(runs)} runs, 0 to {len(runs) - 1}")
    if arguments.status:
        _show(arguments.out, sweep, execute.status(arguments.out, runs))
        return 0
    _check_data(arguments.data_dir, sweep)
    if arguments.slurm is not None or arguments.kubernetes:
        command = [sys.executable, "-m", "osteojax", "sweep", *_without_scheduler(sys.argv[2:])]
        arguments.out.mkdir(parents=True, exist_ok=True)
        if arguments.kubernetes:
            command[:3] = ["osteojax"]
            print(
                schedulers.submit_kubernetes(
                    arguments.out, len(runs), command, arguments.kubernetes, arguments.claim
                )
            )
        else:
            print(schedulers.submit_slurm(arguments.out, len(runs), command, arguments.slurm))
        return 0
    chosen = [runs[number] for number in arguments.only] if arguments.only else runs
    outcomes = execute.execute(arguments.out, chosen, source=arguments.source, processes=arguments.processes)
    _show(arguments.out, sweep, execute.status(arguments.out, runs))
    return EXIT_SOME_FAILED if any(outcome.state == "failed" for outcome in outcomes) else 0


def _as_told(found: "File", arguments: argparse.Namespace) -> "File":
    """What a file says, with what the command line says instead."""
    import dataclasses

    from osteojax.sweep import plan

    told = dataclasses.replace(
        found,
        folds=found.folds if arguments.folds is None else arguments.folds,
        repeats=found.repeats if arguments.repeats is None else arguments.repeats,
        train=arguments.config or found.train,
        prep=arguments.prep or found.prep,
    )
    plan.check_folds(told.folds, told.repeats, "--folds", "--repeats")
    return told


def _check_data(data_dir: str | None, told: "Common") -> None:
    from osteojax.data.dataset import PreparedDataset
    from osteojax.errors import UserError

    if not data_dir:
        return
    there = PreparedDataset.open(data_dir)
    if there.folds != told.folds:
        raise UserError(
            f"{data_dir} has {there.folds} folds, the sweep {told.folds}: say --folds={there.folds}"
        )
    if there.repeats < told.repeats:
        raise UserError(
            f"{data_dir} is dealt {there.repeats} times, the sweep {told.repeats}: say --repeats={there.repeats}"
        )


def _search(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """A search file, with --trials."""
    import dataclasses
    import json

    from osteojax.errors import UserError
    from osteojax.evaluate.evaluate import print_metrics, print_scores
    from osteojax.evaluate.pool import pool_runs
    from osteojax.files import write_atomically
    from osteojax.progress import print_table
    from osteojax.sweep import space

    try:
        from osteojax.sweep import search
    except ModuleNotFoundError as error:
        raise UserError(f"--trials needs {error.name}: pip install 'osteojax[search]'") from error
    for flag in ("only", "slurm", "kubernetes"):
        if getattr(arguments, flag) is not None:
            raise UserError(f"--{flag} is of sweeps; the trials of a search come one after the other")
    if arguments.processes != 1 or len(arguments.seeds or ()) > 1:
        raise UserError("a search runs one trial at a time, with one of --seeds")
    found = _as_told(space.load_search(arguments.sweep), arguments)
    found = dataclasses.replace(found, inner=found.inner if arguments.inner is None else arguments.inner)
    space.check_inner(found, "--inner")
    header = (*search.HEADER, *found.space, "folder")
    if not arguments.status:
        _check_data(arguments.data_dir, found)
        chosen = search.search(
            found,
            arguments.out,
            arguments.trials,
            source=arguments.source,
            prepared=arguments.data_dir,
            seed=(arguments.seeds or [0])[0],
            overrides=overrides,
        )
    print_table(f"search {found.name} in {arguments.out}", header, search.rows(found, arguments.out))
    if arguments.status:
        return 0
    for one in chosen:
        told = ", ".join(f"{key}={value}" for key, value in one.values.items())
        print(f"chosen by validation: trial {one.number}, {found.metric} {one.validation:.4f}: {told}")
    if found.folds:
        pooled = pool_runs([one.folder for one in chosen])
        write_atomically(arguments.out / "pooled.json", json.dumps(pooled, indent=2) + "\n")
        print_metrics(
            pooled, f"out of fold: {pooled['n']} images, {pooled['patients']} patients; % [95 % interval]"
        )
    else:
        print_scores(
            json.loads((chosen[0].folder / "eval" / "test" / "metrics.json").read_text()), to=sys.stdout
        )
    return 0


def _without_scheduler(words: Sequence[str]) -> list[str]:
    """The command line that a task of the scheduler repeats."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word.partition("=")[0] in ("--slurm", "--kubernetes", "--claim")
            if skipping:
                continue
        elif skipping:
            continue
        kept.append(word)
    return kept


def _show(out: Path, sweep: "Sweep", outcomes: "Sequence[Outcome]") -> None:
    from osteojax import leaky
    from osteojax.progress import print_table
    from osteojax.sweep import compare, tables

    print_table(
        f"sweep {sweep.name} in {out}",
        ("run", "variant, seed, fold", "state"),
        [(str(number), outcome.run.name, outcome.state) for number, outcome in enumerate(outcomes)],
    )
    for outcome in outcomes:
        if outcome.reason:
            print(f"{outcome.run.name} failed:\n{outcome.reason}", file=sys.stderr)
    finished = [outcome.run for outcome in outcomes if outcome.state == "finished"]
    if not finished:
        return
    rows = compare.compare(sweep, out, finished)
    mark = tables.mark_of(rows)
    for metric in tables.metrics_shown(sweep):
        print_table(
            leaky.title(metric.replace("_", " "), mark),
            tables.HEADER,
            [tables.cells(r, metric) for r in rows],
            to=sys.stdout,
        )
    tables.write_comparison(out, sweep, rows, outcomes)
