"""`osteojax prep`."""

import argparse
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "prep"
SUMMARY = "Denoise, normalise and split radiographs into ArrayRecord shards."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_source(parser)
    parser.add_argument("--out", required=True, type=flags.place, help="directory of the prepared dataset")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import prepare
    from osteojax import config, storage

    settings = config.load(arguments.config, overrides)
    with storage.output(arguments.out, overwrite=bool(settings.get("overwrite"))) as out:
        prepare(storage.localise_source(arguments.source), out, settings)
    return 0
