"""`osteojax train`."""

import argparse
import sys
from collections.abc import Sequence

from osteojax.cli import flags

NAME = "train"
SUMMARY = "Train; started again on the same workdir, it resumes exactly where it was."
# EX_TEMPFAIL of sysexits.h: not an error, try again. Schedulers can requeue on it.
EXIT_PREEMPTED = 75


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    flags.add_experiment(parser)
    flags.add_workdir(parser)
    parser.add_argument(
        "--force", action="store_true", help="go on although the config of the started run differs"
    )
    parser.add_argument(
        "--profile", action="store_true", help="write an XProf trace of five steps to WORKDIR/profile"
    )
    parser.add_argument(
        "--distributed",
        default="auto",
        choices=("auto", "on", "off"),
        help="join the other processes of a cluster",
    )
    parser.add_argument("--coordinator", help="host:port of process 0, where no cluster tells")
    parser.add_argument("--processes", type=int, help="number of processes, where no cluster tells")
    parser.add_argument("--process_id", type=int, help="index of this process, where no cluster tells")
    parser.add_argument("--timeout", type=int, default=300, help="seconds to wait for the other processes")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    from osteojax import config, storage
    from osteojax.devices import cluster, host_memory
    from osteojax.run.workdir import opened
    from osteojax.train.loop import Preempted
    from osteojax.train.stages import train_stages

    host_memory.keep_freed_memory()  # before JAX starts its threads
    with cluster.joined(
        arguments.distributed,
        coordinator=arguments.coordinator,
        processes=arguments.processes,
        process_id=arguments.process_id,
        timeout=arguments.timeout,
    ):
        try:
            with opened(arguments.workdir) as workdir:
                train_stages(
                    config.load(arguments.config, overrides),
                    workdir,
                    shared=not storage.is_remote(arguments.workdir),
                    force=arguments.force,
                    profile=arguments.profile,
                )
        except Preempted as stop:
            print(f"osteojax train: {stop}", file=sys.stderr)
            return EXIT_PREEMPTED
    return 0
