"""`osteojax export`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "export"
SUMMARY = "Write a checkpoint as files that need no osteojax: StableHLO, safetensors, Orbax, ONNX."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_workdir(parser)
    parser.add_argument(
        "--out", required=True, type=flags.place, help="folder to write; an earlier export there is replaced"
    )
    parser.add_argument("--step", default="best", help="best, last, or a step number")
    parser.add_argument(
        "--format",
        default="stablehlo,safetensors,orbax",
        help="any of stablehlo, safetensors, orbax, onnx, with commas; onnx needs the extra of that name",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import storage
    from osteojax.export.export import export_run

    names = [name for name in arguments.format.split(",") if name]
    with (
        storage.workdir(arguments.workdir, create=False) as workdir,
        storage.output(arguments.out, overwrite=True) as out,
    ):
        description = export_run(workdir, out, step=arguments.step, names=names)
    print(
        f"{arguments.out}: {description['architecture']}, step {description['checkpoint_step']}; "
        f"{', '.join(names)}; model.json says the rest",
        file=sys.stdout,
    )
    return 0
