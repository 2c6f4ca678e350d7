"""What a run learned from, by patient and by content: `learned.csv` in its folder.

It goes along with the run, so that what starts from its weights can be held against it where its data is not at hand.
What the run itself started from is in it too, and what that started from.
"""

from collections.abc import Iterable
from pathlib import Path

from osteojax import folds
from osteojax.data import leaks
from osteojax.data.dataset import NO_SPLIT, PreparedDataset
from osteojax.errors import UserError
from osteojax.files import write_csv
from osteojax.run.open import Run

LEARNED = "learned.csv"
KEYS = ("patient_id", "sha256")
"""Columns: the patient, and the hash of the decoded file, which no preparation changes."""
Rows = list[dict[str, str]]


def learned_from(dataset: PreparedDataset, tested: folds.Tested, validation: str) -> Rows | None:
    """The training and validation images of a run; None where the dataset has no manifest with hashes.

    Args:
        dataset: of the run.
        tested: of its folds.
        validation: the split that chooses the checkpoint; "none" without.
    """
    return _rows(dataset, tested, {"train", validation} - {NO_SPLIT})


def judged_by(dataset: PreparedDataset, tested: folds.Tested, validation: str) -> Rows | None:
    """The images that a run is validated and tested on; None where the dataset has no manifest with hashes."""
    return _rows(dataset, tested, {"val", "test", validation} - {NO_SPLIT, "train"})


def _rows(dataset: PreparedDataset, tested: folds.Tested, splits: Iterable[str]) -> Rows | None:
    manifest = leaks.read_manifest(dataset.directory)
    if manifest is None or not all(row.get("sha256") for row in manifest if row.get("split")):
        return None
    return [
        {key: row.get(key, "") for key in KEYS}
        for split in sorted(splits)
        for row in leaks.part(manifest, split, *tested)
    ]


def write_learned(workdir: Path, rows: Rows) -> None:
    """Writes `learned.csv`."""
    write_csv(workdir / LEARNED, KEYS, ([row[key] for key in KEYS] for row in rows))


def read_learned(run: Run) -> Rows | None:
    """What a run learned from; None where neither its folder nor its dataset tells.

    Runs of earlier releases wrote nothing, and started from no other run: their dataset's manifest tells as much.
    """
    written = leaks.read_table(run.workdir / LEARNED)
    if written is not None:
        return written
    if run.record["origin"]["init"] == "run":
        return None
    try:
        dataset = run.own_dataset()
    except UserError:
        return None
    return learned_from(dataset, run.tested, str(run.config.eval.split))
