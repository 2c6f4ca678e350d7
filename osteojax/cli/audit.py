"""`osteojax audit`."""

import argparse
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "audit"
SUMMARY = "Look for duplicates, contradictory labels and shortcuts."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_source(parser)
    parser.add_argument(
        "--out", required=True, type=flags.place, help="directory for manifest.csv and audit.json"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import audit_source
    from osteojax import config, storage

    settings = config.load(arguments.config, overrides)
    with storage.output(arguments.out, overwrite=bool(settings.get("overwrite"))) as out:
        audit_source(storage.localise_source(arguments.source), out, settings)
    return 0
