"""`osteojax prep`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from osteojax.cli import flags
from osteojax.errors import UserError

if TYPE_CHECKING:
    from data_prep.runner import Runner

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
    parser.add_argument(
        "--runner",
        choices=("local", "beam"),
        default="local",
        help="local: the cores of this machine; beam: an Apache Beam pipeline, told by --beam.NAME=VALUE (Beam's own "
        "options, such as --beam.runner=DataflowRunner)",
    )
    parser.add_argument(
        "--work",
        type=flags.place,
        help="with --runner=beam: what all workers see, a folder or gs://, s3://; by default beside --out",
    )
    parser.set_defaults(passed_on=("--beam.",))


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from data_prep.prepare import prepare
    from data_prep.runner import run_locally
    from osteojax import config, storage

    of_beam = [word for word in overrides if word.startswith("--beam.")]
    settings = config.load(arguments.config, [word for word in overrides if word not in of_beam])
    if arguments.allow_leaky_split:
        config.set_value(settings, "split.allow_leaky", True)
    if arguments.runner == "local" and (of_beam or arguments.work):
        raise UserError(f"{(of_beam or ['--work'])[0]} is of --runner=beam; give that too, or leave it out")
    runner = run_locally if arguments.runner == "local" else _beam(of_beam, arguments.work, arguments.source)
    with storage.output(arguments.out, overwrite=bool(settings.get("overwrite"))) as out:
        prepare(storage.localise_source(arguments.source), out, settings, runner)
    return 0


def _beam(words: Sequence[str], work: Path | str | None, source: str) -> "Runner":
    # Beam logs to the root at its import that Google's client libraries, an extra of it, are missing.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in str(record.msg))
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--runner=beam needs Apache Beam ({error}); pip install 'osteojax[beam]', or leave it out"
        ) from error
    from data_prep.beam.pipeline import beam_runner
    from osteojax import storage

    return beam_runner(words, None if work is None else str(work), storage.folder_address(source))
