"""`osteojax show-augment`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "show-augment"
SUMMARY = (
    "One self-contained page of training images as the augmentation of a config shows them to the network."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_experiment(parser)
    parser.add_argument("--out", required=True, type=Path, help="the page, page.html")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config
    from osteojax.data.dataset import PreparedDataset
    from osteojax.files import write_atomically
    from osteojax.report.augmented import augmentation_page
    from osteojax.train.experiment import read_experiment

    experiment = read_experiment(config.load(arguments.config, overrides))
    dataset = PreparedDataset.open(experiment.data.dir).for_fold(*experiment.tested)
    write_atomically(arguments.out, augmentation_page(experiment, dataset))
    print(arguments.out, file=sys.stdout)
    return 0
