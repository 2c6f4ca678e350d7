"""`osteojax audit`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "audit"
SUMMARY = "Look for duplicates, contradictory labels and shortcuts."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_source(parser)
    parser.add_argument("--out", required=True, type=Path, help="directory for manifest.csv and audit.json")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import audit_source
    from osteojax import config

    audit_source(arguments.source, arguments.out, config.load(arguments.config, overrides))
    return 0
