"""`osteojax evaluate`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "evaluate"
SUMMARY = "Restore a checkpoint and evaluate it, every example once."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--workdir",
        required=True,
        action="append",
        type=flags.place,
        help="directory of the run, local or gs://, s3://; several make an ensemble, and --out names its folder",
    )
    parser.add_argument("--tta", action="store_true", help="average with the mirror images")
    parser.add_argument("--data_dir", help="prepared dataset; by default that of the training run")
    parser.add_argument(
        "--allow_overlap",
        action="store_true",
        help="evaluate another dataset although patients or images of it are in the training data",
    )
    parser.add_argument(
        "--no_near_copies",
        action="store_true",
        help="do not look for near copies of training images in another dataset, a tenth of a second an image",
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
    from osteojax.errors import UserError
    from osteojax.evaluate.evaluate import evaluate_run, print_scores

    host_memory.keep_freed_memory()  # before JAX starts its threads
    if len(arguments.workdir) > 1 and arguments.out is None:
        raise UserError("several runs have no folder of their own for an evaluation: give --out")
    with contextlib.ExitStack() as stack:
        workdir, *others = (
            stack.enter_context(storage.workdir(place, create=False)) for place in arguments.workdir
        )
        out = stack.enter_context(storage.output(arguments.out, overwrite=True))
        metrics = evaluate_run(
            workdir,
            split=arguments.split,
            step=arguments.step,
            data_dir=arguments.data_dir,
            out=out,
            allow_overlap=arguments.allow_overlap,
            near_copies=not arguments.no_near_copies,
            others=others,
            tta=arguments.tta,
        )
    print_scores(metrics, to=sys.stdout)
    if metrics["without_sets"] is not None:
        print(f"no sets: {metrics['without_sets']}", file=sys.stdout)
    return 0
