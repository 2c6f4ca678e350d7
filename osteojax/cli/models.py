"""`osteojax models`."""

import argparse
import sys
from collections.abc import Sequence

NAME = "models"
SUMMARY = "List the architectures: parameters, operations, published accuracy, weights and their licence."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all unless given")
    parser.add_argument("--size", type=int, default=224, help="pixels of the square images (224)")
    parser.add_argument(
        "--time", action="store_true", help="measure images a second on this machine too, which takes minutes"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import models
    from osteojax.errors import UserError
    from osteojax.models.backbone import MIN_SIZE
    from osteojax.models.listing import line
    from osteojax.progress import print_table

    if arguments.size < MIN_SIZE:
        raise UserError(f"--size={arguments.size}: images have at least {MIN_SIZE} pixels a side")
    known = models.classifiers()
    for name in arguments.names:
        if name not in known:
            raise UserError(f"no classifier {name!r}; there are {', '.join(known)}")
    rows, licences = [], list[str]()
    for name in arguments.names or known:
        found = line(name, size=arguments.size, timed=arguments.time)
        if found.licence and found.licence not in licences:
            licences.append(found.licence)
        rows.append(
            (
                found.name,
                f"{found.parameters / 1e6:.2f}",
                f"{found.flops / 1e9:.2f}",
                *([] if found.images_per_second is None else [f"{found.images_per_second:.1f}"]),
                "-" if found.top1 is None else f"{found.top1:.1f}",
                found.weights.rpartition("/")[2] or "a file of yours",
                f"{licences.index(found.licence) + 1}" if found.licence else "the file's",
            )
        )
    speed = ["images/s"] if arguments.time else []
    header = ("name", "M parameters", "GFLOP", *speed, "top-1 %", "weights", "licence")
    print_table(f"{arguments.size} x {arguments.size} pixels, 1,000 classes", header, rows, to=sys.stdout)
    for number, licence in enumerate(licences, 1):
        print(f"licence {number}: {licence}")
    return 0
