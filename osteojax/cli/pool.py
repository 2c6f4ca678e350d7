"""`osteojax pool`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "pool"
SUMMARY = "Cross-validation as one evaluation: pool the folds' predictions, with one interval a number."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "workdirs", nargs="+", type=flags.place, metavar="WORKDIR", help="evaluated runs, one a fold"
    )
    parser.add_argument("--split", default="test", help="split, which all have been evaluated on")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    import json

    from osteojax import storage
    from osteojax.evaluate.evaluate import print_metrics
    from osteojax.evaluate.pool import pool_runs
    from osteojax.files import write_atomically

    found = pool_runs([storage.localise(place) for place in arguments.workdirs], split=arguments.split)
    title = (
        f"{found['n']} images, {found['patients']} patients, {found['repetitions']} repetitions of "
        f"{', '.join(map(str, found['folds']))} folds; % [95 % interval]"
    )
    print_metrics(found, title, to=sys.stdout)
    if arguments.out is not None:
        write_atomically(arguments.out, json.dumps(found, indent=2) + "\n")
    return 0
