"""`osteojax convert`."""

import argparse
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "convert"
SUMMARY = "Convert ImageNet weights of any supported origin to the project's own file."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--weights", required=True, help="a file, or the name of published weights")
    parser.add_argument("--arch", required=True, help="architecture, such as resnet50")
    parser.add_argument("--out", required=True, type=flags.place, help="file to write (.safetensors)")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import storage
    from osteojax.weights.convert import convert

    with storage.output(arguments.out, overwrite=True) as out:
        provenance = convert(arguments.weights, arguments.arch, out)
    print("\n".join(f"{key}: {value}" for key, value in provenance.items()))
    return 0
