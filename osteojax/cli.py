"""The console script: `osteojax COMMAND ...`.

Heavy imports wait for the command that needs them, so that `--help` is quick.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.errors import UserError

EXIT_USER_ERROR = 2
# EX_TEMPFAIL of sysexits.h: not an error, try again. Schedulers can requeue on it.
EXIT_PREEMPTED = 75


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    overrides = [word for word in rest if word.startswith("--config.")]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and not hasattr(arguments, "config")):
        parser.error(
            f"{arguments.command}: unknown argument {(unknown or overrides)[0]}; overrides are --config.key=value"
        )
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for package in ("osteojax", "data_prep"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        return arguments.function(arguments, overrides)
    except UserError as error:
        print(f"osteojax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"osteojax {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="osteojax", description="Bone-health classification from plain radiographs.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace, list[str]], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(function=function)
        return command

    sources = "a folder of class folders, a folder with labels.csv or that file, or `phantom`"
    prep = add("prep", _prep, "Denoise, normalise and split radiographs into ArrayRecord shards.")
    prep.add_argument("--source", required=True, help=sources)
    prep.add_argument("--out", required=True, type=Path, help="directory of the prepared dataset")
    prep.add_argument(
        "--config", default="configs/prep.py", help="preparation config; override with --config.key=value"
    )

    audit = add("audit", _audit, "Look for duplicates, contradictory labels and shortcuts.")
    audit.add_argument("--source", required=True, help=sources)
    audit.add_argument("--out", required=True, type=Path, help="directory for manifest.csv and audit.json")
    audit.add_argument(
        "--config", default="configs/prep.py", help="preparation config; override with --config.key=value"
    )

    convert = add(
        "convert", _convert, "Convert ImageNet weights of any supported origin to the project's own file."
    )
    convert.add_argument("--weights", required=True, help="a file, or the name of published weights")
    convert.add_argument("--arch", required=True, help="architecture, such as resnet50")
    convert.add_argument("--out", required=True, type=Path, help="file to write (.safetensors)")

    train = add("train", _train, "Train; started again on the same workdir, it resumes exactly where it was.")
    train.add_argument("--config", required=True, help="experiment config; override with --config.key=value")
    train.add_argument("--workdir", required=True, type=Path, help="directory of the run")
    train.add_argument(
        "--force", action="store_true", help="go on although the config of the started run differs"
    )
    train.add_argument(
        "--profile", action="store_true", help="write an XProf trace of five steps to WORKDIR/profile"
    )
    train.add_argument(
        "--distributed",
        default="auto",
        choices=("auto", "on", "off"),
        help="join the other processes of a cluster",
    )
    train.add_argument("--coordinator", help="host:port of process 0, where no cluster tells")
    train.add_argument("--processes", type=int, help="number of processes, where no cluster tells")
    train.add_argument("--process_id", type=int, help="index of this process, where no cluster tells")
    train.add_argument("--timeout", type=int, default=300, help="seconds to wait for the other processes")

    evaluate = add("evaluate", _evaluate, "Restore a checkpoint and evaluate it, every example once.")
    evaluate.add_argument("--workdir", required=True, type=Path, help="directory of the run")
    evaluate.add_argument("--data_dir", help="prepared dataset; by default that of the training run")
    evaluate.add_argument("--split", default="test", help="split of the dataset")
    evaluate.add_argument("--step", default="best", help="best, last, or a step number")

    check = add(
        "compile-check", _compile_check, "Compile the real train step for hardware that is not there."
    )
    check.add_argument("--config", required=True, help="experiment config; override with --config.key=value")
    check.add_argument("--topology", default="v5e:2x4", help="TPU topology")
    return parser


def _prep(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from data_prep.prepare import prepare
    from osteojax import config

    prepare(arguments.source, arguments.out, config.load(arguments.config, overrides))
    return 0


def _audit(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from data_prep.prepare import audit
    from osteojax import config

    audit(arguments.source, arguments.out, config.load(arguments.config, overrides))
    return 0


def _convert(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from osteojax.weights.convert import convert

    provenance = convert(arguments.weights, arguments.arch, arguments.out)
    print("\n".join(f"{key}: {value}" for key, value in provenance.items()))
    return 0


def _train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from osteojax import cluster, config, host_memory
    from osteojax.train import Preempted, train

    host_memory.keep_freed_memory()  # before JAX starts its threads
    cluster.start(
        arguments.distributed,
        coordinator=arguments.coordinator,
        processes=arguments.processes,
        process_id=arguments.process_id,
        timeout=arguments.timeout,
    )
    try:
        train(
            config.load(arguments.config, overrides),
            arguments.workdir,
            force=arguments.force,
            profile=arguments.profile,
        )
    except Preempted as stop:
        print(f"osteojax train: {stop}", file=sys.stderr)
        return EXIT_PREEMPTED
    return 0


def _evaluate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from osteojax import host_memory
    from osteojax.evaluate import evaluate, print_scores

    host_memory.keep_freed_memory()  # before JAX starts its threads
    metrics = evaluate(
        arguments.workdir, split=arguments.split, step=arguments.step, data_dir=arguments.data_dir
    )
    print_scores(metrics, to=sys.stdout)
    return 0


def _compile_check(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from osteojax import config
    from osteojax.compile_check import compile_check, print_report

    print_report(compile_check(config.load(arguments.config, overrides), arguments.topology))
    return 0


if __name__ == "__main__":
    main()
