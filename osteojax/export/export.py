"""A checkpoint of a run as a folder of files that need no osteojax."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osteojax.errors import UserError
from osteojax.export import describe, formats  # noqa: F401 (the formats register themselves)
from osteojax.export.formats.registry import FORMATS
from osteojax.files import disk_errors, whole_folder
from osteojax.run.fitted import fitted
from osteojax.run.open import open_run


def export_run(
    workdir: str | Path, out: Path, *, step: str | int = "best", names: Sequence[str] = ("stablehlo",)
) -> dict[str, Any]:
    """Writes a folder with `model.json` and the files of each format; it appears whole, or not at all.

    Args:
        workdir: of the run.
        out: the folder; an earlier export in its place is replaced.
        step: "best" (by validation), "last", or a number.
        names: of the formats.

    Returns:
        What `model.json` says.

    Raises:
        UserError: no such format, no such checkpoint, it is damaged or takes columns beside the image, a format cannot
            be written, or `out` holds anything but an export.
    """
    if not names:
        raise UserError(f"no format is named; there are {', '.join(FORMATS)}")
    writers = [FORMATS.get(name) for name in dict.fromkeys(names)]
    run = open_run(workdir, step)
    if run.columns is not None:
        raise UserError(
            f"{workdir} takes the columns {', '.join(run.columns.names)} beside the image, and an exported network "
            "takes an image alone; use osteojax predict --covariates, or train with model.covariates empty"
        )
    known = fitted(run)
    with disk_errors(out, kept="no part of it is left"), whole_folder(out, marker=describe.FILE) as folder:
        for write in writers:
            write(run, folder)
        description = describe.describe(run, folder, known.temperature if known else None)
        describe.write_description(folder, description)
    return description
