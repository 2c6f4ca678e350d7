"""`osteojax compile-check`."""

import argparse
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "compile-check"
SUMMARY = "Compile the real train step for hardware that is not there."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_experiment(parser)
    parser.add_argument("--topology", default="v5e:2x4", help="TPU topology")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config
    from osteojax.compile_check import compile_check, print_report

    print_report(compile_check(config.load(arguments.config, overrides), arguments.topology))
    return 0
