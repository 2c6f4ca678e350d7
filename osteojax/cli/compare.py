"""`osteojax compare`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "compare"
SUMMARY = "Compare two runs on the same test patients: paired differences, McNemar, DeLong."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("first", type=flags.place, help="workdir of a run")
    parser.add_argument(
        "second", type=flags.place, help="workdir of another; differences are second less first"
    )
    parser.add_argument("--split", default="test", help="split, which both have been evaluated on")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import leaky, storage
    from osteojax.evaluate.paired import compare_runs, rows
    from osteojax.files import write_atomically
    from osteojax.progress import print_table

    first, second = storage.localise(arguments.first), storage.localise(arguments.second)
    found = compare_runs(first, second, split=arguments.split)
    title = f"{found.second} less {found.first}: {found.n} images of {found.patients} patients, split {arguments.split}"
    print_table(
        leaky.title(title, found.leaky),
        ("metric", "first", "second", "difference [95 %]", "p"), rows(found), to=sys.stdout,
    )  # fmt: skip
    print(
        f"McNemar: {found.only_first} images only the first has right, {found.only_second} only the second, "
        f"p = {found.mcnemar_p:.3f} (as if images were independent)"
    )
    if arguments.out is not None:
        write_atomically(arguments.out, found.to_json())
    return 0
