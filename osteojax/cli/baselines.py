"""`osteojax baselines`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "baselines"
SUMMARY = (
    "Fit simple classifiers of clinical columns, texture and a frozen network: what a network must beat."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--config",
        default="configs/baselines/baselines.py",
        help="rows to compare; override with --config.key=value",
    )
    parser.add_argument("--data_dir", required=True, help="prepared dataset")
    parser.add_argument("--out", required=True, type=flags.place, help="folder to write to")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config as configs
    from osteojax import storage
    from osteojax.baselines.fit import fit_baselines, read_baselines
    from osteojax.baselines.tables import HEADER, cells, title, write_tables
    from osteojax.progress import print_table

    config = configs.load(arguments.config, overrides)
    asked = read_baselines(config)
    with storage.output(arguments.out, overwrite=True) as out:
        rows = fit_baselines(config, arguments.data_dir, out)
        write_tables(out, asked, rows)
    print_table(title(asked, rows), HEADER, [cells(asked, found) for found in rows], to=sys.stdout)
    return 0
