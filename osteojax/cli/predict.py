"""`osteojax predict`."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from osteojax.cli import flags

NAME = "predict"
SUMMARY = (
    "Classify radiographs (DICOM, PNG, JPEG, TIFF), prepared exactly as the checkpoint's training images."
)
_SHOWN = 40


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--workdir",
        type=flags.place,
        action="append",
        default=[],
        help="directory of a run, local or gs://, s3://; several make an ensemble",
    )
    parser.add_argument(
        "--model", type=flags.place, action="append", default=[], help="folder of osteojax export, likewise"
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    parser.add_argument("--step", default="best", help="best, last, or a step number")
    parser.add_argument("--out", type=Path, help="table of the answers; JSON where the name ends in .json")
    parser.add_argument("--explain", type=Path, help="folder for a picture a file: where the network looked")
    parser.add_argument(
        "--sr",
        type=Path,
        help="folder for a DICOM structured report of each DICOM file; they carry the patient's identifiers",
    )
    parser.add_argument(
        "--covariates",
        type=Path,
        help="table of the columns that the network takes beside the image: file, and those; absent ones are missing",
    )
    parser.add_argument("--tta", action="store_true", help="average with the mirror image: --views=mirror")
    parser.add_argument(
        "--views",
        default="",
        help="average with views of these kinds: mirror,rotate,scale,shift, or some of them",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 0 where every file was read and reported, 1 where one was not."""
    from osteojax import leaky, storage
    from osteojax.devices import host_memory
    from osteojax.errors import UserError
    from osteojax.export.read import Exported, open_exported
    from osteojax.files import csv_cell
    from osteojax.predict.answer import table_rows, write_predictions
    from osteojax.predict.predict import Predictor
    from osteojax.predict.views import MIRROR
    from osteojax.progress import print_table
    from osteojax.run.open import Run, open_run

    host_memory.keep_freed_memory()  # before JAX starts its threads
    with contextlib.ExitStack() as stack:
        workdirs = [stack.enter_context(storage.workdir(place, create=False)) for place in arguments.workdir]
        models: list[Run | Exported] = [open_run(place, arguments.step) for place in workdirs]
        models += [open_exported(storage.localise(place)) for place in arguments.model]
        if not models:
            raise UserError("no network is named; give --workdir, or --model for an exported one")
        names = [name for name in arguments.views.split(",") if name]
        tta = names or ([MIRROR] if arguments.tta else [])
        predictor = Predictor(models, tta=tta, covariates=arguments.covariates)
        answers = predictor.predict(arguments.files)
        if arguments.explain is not None:
            predictor.explain(answers, arguments.explain)
    filed = [] if arguments.sr is None else predictor.report(answers, arguments.sr)
    if arguments.out is not None:
        write_predictions(arguments.out, answers, predictor.class_names)
    kind = "calibrated probability" if predictor.calibrated else "probability, NOT calibrated"
    sets = "sets hold the truth in 90 % of images like those of validation"
    if predictor.without_sets is not None:
        sets = f"no sets: {predictor.without_sets}"
    title = f"{len(answers)} files; {kind}; {sets}"
    print_table(
        leaky.title(title, predictor.mark),
        ("file", "class", "probability", "set", ""),
        table_rows(answers[:_SHOWN]),
        to=sys.stdout,
    )
    if len(answers) > _SHOWN:
        print(f"... and {len(answers) - _SHOWN} more", file=sys.stdout)
    unread = sum(answer.predicted is None for answer in answers)
    flagged = sum(bool(answer.out_of_distribution) for answer in answers)
    print(
        f"{len(answers) - unread} answered, {flagged} of them unlike the training images; {unread} not read",
        file=sys.stdout,
    )
    refused = [one for one in filed if one.reason is not None]
    if arguments.sr is not None:
        reports = sum(one.report is not None for one in filed)
        others = len(filed) - reports - len(refused)
        print(
            f"{reports} structured reports in {arguments.sr}; {others} files are no DICOM files",
            file=sys.stdout,
        )
        for one in refused:
            print(f"no structured report of {csv_cell(one.file)}: {one.reason}", file=sys.stdout)
    return 1 if unread or refused else 0
