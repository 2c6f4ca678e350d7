"""Beam's own options from the command line, checked before anything runs."""

from collections.abc import Sequence
from typing import NoReturn

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser
from apache_beam.runners.runner import PipelineRunner, create_runner

from osteojax.errors import UserError

# Beam in this process, a thread a core: each file has a process of its own anyway.
_HERE = ("--runner=DirectRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=0")


class _Parser(_BeamArgumentParser):  # some options are of a kind that only Beam's own parser knows
    def error(self, message: str) -> NoReturn:
        raise UserError(f"Beam's options: {message.replace('--', '--beam.')}")


def read_options(words: Sequence[str]) -> tuple[PipelineRunner, PipelineOptions]:
    """The runner and its options.

    Args:
        words: `--beam.NAME=VALUE` each, or `--beam.NAME` of a flag; none for this machine.

    Raises:
        UserError: Beam knows no such runner or option, or a value is none of the option's.
    """
    flags = [f"--{word.removeprefix('--beam.')}" for word in words] or list(_HERE)
    named = PipelineOptions(flags).view_as(StandardOptions).runner or "DirectRunner"
    try:
        runner = create_runner(named)  # its module may bring options of its own
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam.runner={named}: {' '.join(str(error).split())[:200]}") from error
    parser = _Parser(add_help=False, allow_abbrev=False)
    for kind in _kinds(PipelineOptions):
        kind._add_argparse_args(parser)  # what each of them is asked to define
    unknown = parser.parse_known_args(flags)[1]
    if unknown:
        raise UserError(f"Beam has no option {unknown[0].replace('--', '--beam.', 1)}; see docs/beam.md")
    return runner, PipelineOptions(flags)


def _kinds(base: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    """All groups of options that are defined anywhere."""
    found = []
    for kind in base.__subclasses__():
        found += [kind] if "_add_argparse_args" in vars(kind) else []
        found += _kinds(kind)
    return found
