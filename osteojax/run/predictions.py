"""`predictions.csv`: what a run said of each image of a split."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from osteojax import leaky
from osteojax.errors import UserError
from osteojax.files import csv_text, write_csv
from osteojax.metrics.sample import Sample

# A probability is written with six digits; its logarithm must be finite.
_SMALLEST = 1e-7


@dataclasses.dataclass(frozen=True)
class Said:
    """What a run said of N images.

    Attributes:
        ids: (N,) of the images.
        logits: (N, C) log-probabilities.
        labels: (N,).
        patients: (N,).
        class_names: C names, in label order.
        mark: of what a leaky split had a part in.
    """

    ids: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    class_names: tuple[str, ...]
    mark: leaky.Mark | None = None

    def at(self, places: Sequence[int] | np.ndarray) -> "Said":
        """Those of some of the images, in this order."""
        return Said(
            self.ids[places],
            self.logits[places],
            self.labels[places],
            self.patients[places],
            self.class_names,
            self.mark,
        )

    def sample(self, *, seed: int = 0) -> Sample:
        """The sample of patients that intervals are computed from."""
        return Sample.of(self.logits, self.labels, self.patients.tolist(), seed=seed)


def pooled(parts: Sequence[Said]) -> Said:
    """The predictions of all folds as those of one test split: each patient is tested in one fold."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    mark = leaky.together(part.mark for part in parts)
    return Said(
        column("ids"), column("logits"), column("labels"), column("patients"), parts[0].class_names, mark
    )


def write_predictions(
    path: Path,
    examples: Sequence[Mapping[str, Any]],
    logits: np.ndarray,
    class_names: Sequence[str],
    mark: leaky.Mark | None = None,
    *,
    t_scores: np.ndarray | None = None,
) -> None:
    """One row an example: id, patient_id, label, predicted, the probability of each class, and its T-score (N,), where
    one is given.

    Where a leaky split had a part in it, each row says so in a column of its own.
    """
    header = ["id", "patient_id", "label", "predicted", *(f"p_{name}" for name in class_names)]
    marked = [] if mark is None else [mark["reason"]]
    scores = [[] for _ in examples] if t_scores is None else [[f"{score:.4f}"] for score in t_scores]
    header += ["t_score"] * (t_scores is not None) + [leaky.KEY] * len(marked)
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    write_csv(
        path,
        header,
        (
            [
                text(example["id"]),
                text(example["patient_id"]),
                class_names[example["label"]],
                class_names[int(logit.argmax())],
                *(f"{p:.6f}" for p in row),
                *score,
                *marked,
            ]
            for example, row, logit, score in zip(examples, probabilities, logits, scores, strict=True)
        ),
    )


def read_predictions(path: Path) -> Said:
    """Inverse of `write_predictions`; the mark is also that of the metrics.json beside it.

    Raises:
        UserError: it is not whole.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = tuple(key.removeprefix("p_") for key in rows[0] if key.startswith("p_"))
        p = np.asarray([[float(row[f"p_{name}"]) for name in names] for row in rows])
        labels = np.asarray([names.index(row["label"]) for row in rows])
        ids, patients = (np.asarray([csv_text(row[key]) for row in rows]) for key in ("id", "patient_id"))
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path} is not whole ({error}); evaluate the run again") from error
    try:
        beside = json.loads(path.with_name("metrics.json").read_text())
    except (OSError, ValueError):
        beside = {}
    mark = leaky.of(beside) or leaky.together(leaky.of(row) for row in rows)
    return Said(ids, np.log(np.maximum(p, _SMALLEST)), labels, patients, names, mark)


def text(value: Any) -> str:
    """A string feature, which TFDS gives back as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
