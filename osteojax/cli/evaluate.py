"""`osteojax evaluate`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "evaluate"
SUMMARY = "Restore a checkpoint and evaluate it, every example once."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_workdir(parser)
    parser.add_argument("--data_dir", help="prepared dataset; by default that of the training run")
    parser.add_argument(
        "--allow_overlap",
        action="store_true",
        help="evaluate another dataset although patients or images of it are in the training data",
    )
    parser.add_argument("--split", default="test", help="split of the dataset")
    parser.add_argument("--step", default="best", help="best, last, or a step number")
    parser.add_argument(
        "--out",
        type=flags.place,
        help="folder to write to; by default WORKDIR/eval/SPLIT, with @step-N and @data-FINGERPRINT in its name where "
        "it is not the best checkpoint on the run's own data",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import storage
    from osteojax.devices import host_memory
    from osteojax.evaluate.evaluate import evaluate_run, print_scores

    host_memory.keep_freed_memory()  # before JAX starts its threads
    with (
        storage.workdir(arguments.workdir, create=False) as workdir,
        storage.output(arguments.out, overwrite=True) as out,
    ):
        metrics = evaluate_run(
            workdir,
            split=arguments.split,
            step=arguments.step,
            data_dir=arguments.data_dir,
            out=out,
            allow_overlap=arguments.allow_overlap,
        )
    print_scores(metrics, to=sys.stdout)
    return 0
