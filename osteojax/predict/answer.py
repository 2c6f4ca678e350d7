"""The answer for one file, as a table and for a person."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osteojax import leaky
from osteojax.calibration.conformal import COVERAGE
from osteojax.files import csv_cell, write_atomically, write_csv


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer for one file.

    Attributes:
        file: its path.
        predicted: the likeliest class; None where there is no answer, for the `reason`.
        probabilities: class -> probability, calibrated where `calibrated`; empty without an answer.
        calibrated: whether a temperature fitted on validation was applied.
        conformal_set: the classes that it may be, at a coverage of 90 % on images like those of validation; None where
            there is no calibration for it.
        out_of_distribution: whether the image is unlike those that the network learned from, so that the answer
            means nothing; None where that is not known.
        distance, energy: the scores behind it, over their thresholds: above 1 is flagged.
        reason: why there is no answer.
        leaky: the mark in words, where a leaky split had a part in the network; empty where none had.
        t_score: predicted; None where the network gives none.
    """

    file: str
    predicted: str | None = None
    probabilities: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibrated: bool = False
    conformal_set: tuple[str, ...] | None = None
    out_of_distribution: bool | None = None
    distance: float | None = None
    energy: float | None = None
    reason: str | None = None
    leaky: str = ""
    t_score: float | None = None


def write_predictions(path: Path, answers: Sequence[Prediction], class_names: Sequence[str]) -> None:
    """A table, or JSON where the name ends in .json; whole or absent."""
    if path.suffix.lower() == ".json":
        rows = [dataclasses.asdict(answer) for answer in answers]
        write_atomically(path, json.dumps({"coverage": COVERAGE, "predictions": rows}, indent=1) + "\n")
        return
    header = ["file", "predicted", *(f"p_{name}" for name in class_names), "calibrated", "conformal_set"]
    header += ["out_of_distribution", "distance", "energy", "reason"]
    # In the order of the header: what is only there where a network gives it, or has to say it.
    extras: list[tuple[str, Callable[[Prediction], str]]] = []
    if any(answer.t_score is not None for answer in answers):
        extras.append(("t_score", lambda answer: "" if answer.t_score is None else f"{answer.t_score:.4f}"))
    if any(answer.leaky for answer in answers):
        extras.append((leaky.KEY, lambda answer: answer.leaky))
    header += [name for name, _ in extras]
    write_csv(
        path,
        header,
        (_cells(answer, class_names) + [cell(answer) for _, cell in extras] for answer in answers),
    )


def _cells(answer: Prediction, class_names: Sequence[str]) -> list[Any]:
    return [
        answer.file,
        answer.predicted,
        *(f"{answer.probabilities[name]:.6f}" if answer.probabilities else "" for name in class_names),
        str(answer.calibrated).lower() if answer.predicted else "",
        "" if answer.conformal_set is None else "|".join(answer.conformal_set) or "none",
        "" if answer.out_of_distribution is None else str(answer.out_of_distribution).lower(),
        *("" if score is None else f"{score:.3f}" for score in (answer.distance, answer.energy)),
        answer.reason,
    ]


def table_rows(answers: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """File, answer, probability, set and what is to be said of it, for a person."""
    rows: list[tuple[str, ...]] = []
    for answer in answers:
        if answer.predicted is None:
            rows.append((csv_cell(answer.file), "-", "-", "-", f"not read: {answer.reason}"))
            continue
        held = "-" if answer.conformal_set is None else ", ".join(answer.conformal_set) or "none"
        said = f"{leaky.WORDS} " if answer.leaky else ""
        said += "NOT LIKE THE TRAINING IMAGES: no answer" if answer.out_of_distribution else ""
        rows.append(
            (
                csv_cell(answer.file),
                "-" if answer.out_of_distribution else answer.predicted,
                f"{answer.probabilities[answer.predicted]:.3f}",
                held,
                said,
            )
        )
    return rows
