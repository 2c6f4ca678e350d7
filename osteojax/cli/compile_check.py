"""`osteojax compile-check`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "compile-check"
SUMMARY = "Compile the real train step for hardware that is not there."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_experiment(parser)
    parser.add_argument(
        "--topology",
        default="v5e:2x4",
        help="v5e:4x4, v6e:8x8, v4:2x2x2, v5p:4x4x4, v5e:4x4*2 for two slices, or h100:8 (lowered only)",
    )
    parser.add_argument(
        "--image_size", type=int, default=224, help="of the dataset, where data.dir is not set"
    )
    parser.add_argument("--classes", type=int, default=3, help="likewise")
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 2),
        default=1,
        help="likewise; 2 with the map of region.how=channel",
    )
    parser.add_argument("--images", type=int, help="of the training split, likewise: gives hours")
    parser.add_argument("--price", type=float, help="of one chip for an hour: gives cost")
    parser.add_argument(
        "--largest_batch", action="store_true", help="also search the largest batch that fits"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    import json

    from osteojax import config as configs
    from osteojax import folds
    from osteojax.compile_check.program import Shapes
    from osteojax.compile_check.report import Job, compile_check, largest_batch, print_report
    from osteojax.data.dataset import PreparedDataset
    from osteojax.errors import UserError

    for name in ("image_size", "classes", "images", "price"):
        given = getattr(arguments, name)
        if given is not None and given <= 0:
            raise UserError(f"--{name}={given} must be more than nothing")
    config = configs.load(arguments.config, overrides)
    shapes = Shapes(arguments.image_size, arguments.classes, arguments.channels)
    images = arguments.images
    if config.data.dir:
        dataset = PreparedDataset.open(config.data.dir).for_fold(*folds.Tested.of(config))
        shapes = Shapes(dataset.image_shape[0], len(dataset.class_names), dataset.image_shape[2])
        images = dataset.splits["train"]
    job = Job(images, price=arguments.price)
    if arguments.largest_batch:
        report, larger = largest_batch(config, arguments.topology, shapes, job)
        print(f"osteojax compile-check: a larger batch: {larger}", file=sys.stderr)
    else:
        report = compile_check(config, arguments.topology, shapes, job)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print_report(report)
    return 0
