"""Flags that several commands share."""

import argparse
from pathlib import Path

from osteojax import storage


def place(text: str) -> Path | str:
    """A local path, or an address on an object store as it is."""
    return text if storage.is_remote(text) else Path(text)


def add_source(parser: argparse.ArgumentParser) -> None:
    """`--source` and `--config` of what reads labelled radiographs."""
    parser.add_argument(
        "--source",
        required=True,
        help="a folder of class folders, a folder with labels.csv or that file, or `phantom`",
    )
    parser.add_argument(
        "--config",
        default="configs/prep/prep.py",
        help="preparation config; override with --config.key=value",
    )


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """`--config` of what trains."""
    parser.add_argument("--config", required=True, help="experiment config; override with --config.key=value")


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """`--workdir`."""
    parser.add_argument(
        "--workdir", required=True, type=place, help="directory of the run, local or gs://, s3://"
    )
