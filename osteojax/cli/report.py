"""`osteojax report`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "report"
SUMMARY = (
    "One self-contained page of a run, its model card, and CLAIM and TRIPOD+AI; or a page of several runs."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--workdir",
        required=True,
        action="append",
        type=flags.place,
        help="directory of the run, local or gs://, s3://; several (folds, seeds) make one page, which --out names",
    )
    parser.add_argument("--out", type=Path, help="the page of several runs")
    parser.add_argument(
        "--split", default="test", help="split of the dataset; evaluated first where it was not"
    )
    parser.add_argument(
        "--no-explain",
        dest="explain",
        action="store_false",
        help="without images and maps, which take a minute",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import storage
    from osteojax.devices import host_memory
    from osteojax.errors import UserError
    from osteojax.evaluate.evaluate import evaluate_run
    from osteojax.evaluate.pool import pool_runs
    from osteojax.files import disk_errors
    from osteojax.report.card import write_card
    from osteojax.report.pooled import write_pooled
    from osteojax.report.report import gather, write_report

    host_memory.keep_freed_memory()  # before JAX starts its threads
    several = len(arguments.workdir) > 1
    if several != (arguments.out is not None):
        raise UserError("--out names the page of several runs: give --workdir several times, or leave it out")
    with contextlib.ExitStack() as stack:
        workdirs = [stack.enter_context(storage.workdir(place, create=False)) for place in arguments.workdir]
        for workdir in workdirs:
            folder = workdir / "eval" / arguments.split
            if not (folder / "metrics.json").is_file() or not (folder / "curves.json").is_file():
                evaluate_run(workdir, split=arguments.split)
        if several:
            found = pool_runs(workdirs, split=arguments.split)
            with disk_errors(arguments.out):
                write_pooled(found, arguments.out)
            print(arguments.out, file=sys.stdout)
            return 0
        (workdir,) = workdirs
        material = gather(workdir, split=arguments.split, explain=arguments.explain)
        with disk_errors(workdir):
            write_report(material, workdir / "report.html")
            write_card(material, workdir / "model_card.md")
    print(f"{arguments.workdir[0]}/report.html and model_card.md", file=sys.stdout)
    return 0
