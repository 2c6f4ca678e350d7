"""The console script: `osteojax COMMAND ...`.

Heavy imports wait for the command that needs them, so that `--help` is quick.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from osteojax.cli import (
    audit,
    baselines,
    compare,
    compile_check,
    convert,
    evaluate,
    export,
    models,
    pool,
    predict,
    prep,
    probe,
    report,
    show_augment,
    sweep,
    train,
    train_denoiser,
    train_segmenter,
)
from osteojax.errors import UserError
from osteojax.files import disk_errors

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# In the order of their use. Each module has NAME, SUMMARY, `add_flags(parser)` and `run(arguments, overrides)`.
COMMANDS = (
    prep,
    audit,
    models,
    convert,
    show_augment,
    train,
    train_denoiser,
    probe,
    baselines,
    evaluate,
    predict,
    compare,
    pool,
    report,
    export,
    sweep,
    train_segmenter,
    compile_check,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    taken = (("--config.",) if hasattr(arguments, "config") else ()) + getattr(arguments, "passed_on", ())
    overrides = [word for word in rest if word.startswith(taken)]
    unknown = [word for word in rest if word not in overrides]
    if unknown:
        parser.error(f"{arguments.command}: unknown argument {unknown[0]}; overrides are --config.key=value")
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for package in ("osteojax", "data_prep"):
        logging.getLogger(package).setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of its own defaults
    try:
        with disk_errors("the output"):
            return arguments.run(arguments, overrides)
    except UserError as error:
        print(f"osteojax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"osteojax {arguments.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="osteojax", description="Bone-health classification from plain radiographs.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME, help=command.SUMMARY, description=command.SUMMARY, allow_abbrev=False
        )
        command.add_flags(sub)
        sub.set_defaults(run=command.run)
    return parser
