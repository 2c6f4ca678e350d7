"""`osteojax report`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "report"
SUMMARY = "One self-contained page of a run, its model card, and the checklists CLAIM and TRIPOD+AI."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_workdir(parser)
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
    from osteojax.evaluate.evaluate import evaluate_run
    from osteojax.files import disk_errors
    from osteojax.report.card import write_card
    from osteojax.report.report import gather, write_report

    host_memory.keep_freed_memory()  # before JAX starts its threads
    with storage.workdir(arguments.workdir, create=False) as workdir:
        folder = workdir / "eval" / arguments.split
        if not (folder / "metrics.json").is_file() or not (folder / "curves.json").is_file():
            evaluate_run(workdir, split=arguments.split)
        material = gather(workdir, split=arguments.split, explain=arguments.explain)
        with disk_errors(workdir):
            write_report(material, workdir / "report.html")
            write_card(material, workdir / "model_card.md")
    print(f"{arguments.workdir}/report.html and model_card.md", file=sys.stdout)
    return 0
