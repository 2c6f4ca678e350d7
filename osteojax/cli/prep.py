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
    parser.add_argument(
        "--allow_leaky_split",
        action="store_true",
        help="take a split that leaks (given, or split.by=image), as a published protocol asks; the dataset and all "
        "that is made from it are marked as leaky",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import prepare
    from osteojax import config, storage

    settings = config.load(arguments.config, overrides)
    if arguments.allow_leaky_split:
        config.set_value(settings, "split.allow_leaky", True)
    with storage.output(arguments.out, overwrite=bool(settings.get("overwrite"))) as out:
        prepare(storage.localise_source(arguments.source), out, settings)
    return 0
