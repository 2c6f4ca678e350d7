"""`osteojax probe`."""

import argparse
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "probe"
SUMMARY = "Fit the head alone to features of a frozen network, over a path of penalties; validation chooses."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--config",
        default="configs/train/probe_resnet50.py",
        help="experiment config of which the head learns; override with --config.key=value",
    )
    flags.add_workdir(parser)
    parser.add_argument("--data_dir", help="prepared dataset; by default the config's data.dir")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config as configs
    from osteojax.devices import host_memory
    from osteojax.run.workdir import opened
    from osteojax.train.probe import probe

    host_memory.keep_freed_memory()  # before JAX starts its threads
    config = configs.load(arguments.config, overrides)
    if arguments.data_dir:
        config.data.dir = arguments.data_dir
    with opened(arguments.workdir) as workdir:
        probe(config, workdir)
    return 0
