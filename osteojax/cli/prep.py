"""`osteojax prep`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "prep"
SUMMARY = "Denoise, normalise and split radiographs into ArrayRecord shards."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_source(parser)
    parser.add_argument("--out", required=True, type=Path, help="directory of the prepared dataset")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import prepare
    from osteojax import config

    prepare(arguments.source, arguments.out, config.load(arguments.config, overrides))
    return 0
