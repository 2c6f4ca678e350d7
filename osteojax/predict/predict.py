"""Classifies files with one run or several, and says where it should not be believed."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from data_prep.preprocess import PreprocessSpec
from osteojax.calibration.conformal import COVERAGE
from osteojax.errors import UserError
from osteojax.export.read import Exported
from osteojax.files import csv_cell, write_atomically, write_csv
from osteojax.predict.explain import explain_files
from osteojax.predict.files import Images, find_files, read_files
from osteojax.predict.views import check_views, views
from osteojax.run.fitted import Fitted, fitted
from osteojax.run.open import Run

_BATCH = 32


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


@dataclasses.dataclass(frozen=True)
class _Member:
    """One network of a predictor.

    Attributes:
        name: for messages.
        record: has class_names and preprocessing.
        logits: of images (N, H, W, 1).
        temperature: that calibrates them; None where nothing does.
        run, fitted: None for an exported network, which says nothing of strange images.
    """

    name: str
    record: Mapping[str, Any]
    logits: Callable[[np.ndarray], np.ndarray]
    temperature: float | None
    run: Run | None
    fitted: Fitted | None

    @classmethod
    def of(cls, model: Run | Exported) -> "_Member":
        if isinstance(model, Exported):
            record = {"class_names": list(model.class_names), "preprocessing": model.preprocessing}
            temperature = model.description.get("temperature")
            return cls(
                str(model.folder), record, lambda images: _in_batches(model, images), temperature, None, None
            )
        known = fitted(model)
        temperature = known.temperature if known else None
        return cls(
            str(model.workdir),
            model.record,
            lambda images: model.logits(Images(images)),
            temperature,
            model,
            known,
        )

    def probabilities(self, logits: np.ndarray, *, calibrated: bool) -> np.ndarray:
        """(N, C) float64."""
        logits = logits.astype(np.float64)
        return softmax(logits / self.temperature if calibrated and self.temperature else logits, axis=-1)


def _in_batches(model: Exported, images: np.ndarray) -> np.ndarray:
    """Logits of an exported network, which is compiled for one size of a batch."""
    padding = -len(images) % _BATCH
    padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    parts = [model.logits(padded[start : start + _BATCH]) for start in range(0, len(padded), _BATCH)]
    return np.concatenate(parts)[: len(images)]


class Predictor:
    """One network, or an ensemble of several whose images are prepared alike.

    Args:
        models: opened checkpoints, or exported networks.
        tta: names of views (`osteojax.predict.views`) whose probabilities are averaged with the image's own.

    Raises:
        UserError: they do not have the same classes and preprocessing.
    """

    def __init__(self, models: Sequence[Run | Exported], *, tta: Sequence[str] = ()) -> None:
        check_views(tta)
        self._members = [_Member.of(model) for model in models]
        first = self._members[0]
        for member in self._members[1:]:
            if any(member.record[key] != first.record[key] for key in ("class_names", "preprocessing")):
                raise UserError(
                    f"{member.name} and {first.name} have other classes or another preprocessing; an ensemble is of "
                    "runs on one kind of image"
                )
        self._tta = tuple(tta)
        self.class_names = list(first.record["class_names"])
        self.spec = PreprocessSpec.from_dict(dict(first.record["preprocessing"]))

    @property
    def calibrated(self) -> bool:
        """Whether every network's probabilities are."""
        return all(member.temperature is not None for member in self._members)

    def explain(self, answers: Sequence[Prediction], folder: Path) -> None:
        """Draws for each answered file where the first run's network looked, over the radiograph in its own geometry.

        Raises:
            UserError: the network is an exported one.
        """
        first = self._members[0].run
        if first is None:
            raise UserError("an exported network cannot be explained: its inside is closed; give --workdir")
        explain_files(
            first,
            self.spec,
            [(Path(a.file), self.class_names.index(a.predicted)) for a in answers if a.predicted],
            folder,
        )

    def predict(self, places: Sequence[Path]) -> list[Prediction]:
        """An answer for each file, in their order; a broken file has a reason instead, and the others are answered.

        Args:
            places: files, and folders of files.

        Raises:
            UserError: a place that is not there.
        """
        answers = []
        for portion in read_files(find_files(places), self.spec):
            images = [one.image for one in portion if one.image is not None]
            found = iter(
                self.of_images(np.stack(images), [str(o.file) for o in portion if o.image is not None])
                if images
                else ()
            )
            answers += [
                next(found) if one.image is not None else Prediction(str(one.file), reason=one.reason)
                for one in portion
            ]
        return answers

    def of_images(self, images: Float[np.ndarray, "n h w 1"], names: Sequence[str]) -> list[Prediction]:
        """Likewise for images that are preprocessed already: float32 in [0, 1]."""
        logits = [member.logits(images) for member in self._members]
        probabilities = np.mean(list(map(self._probabilities, self._members, logits, repeat(images))), axis=0)
        sets, scores = self._sets(probabilities), self._scores(images, logits)
        answers = []
        for row, name in enumerate(names):
            held = None
            if sets is not None:
                held = tuple(self.class_names[c] for c in np.flatnonzero(sets[row]))
            answer = Prediction(
                name,
                self.class_names[int(probabilities[row].argmax())],
                dict(zip(self.class_names, map(float, probabilities[row]), strict=True)),
                self.calibrated,
                held,
            )
            if scores is not None:
                distance, energy = map(float, scores[row])
                strange = distance > 1 or energy > 1
                answer = dataclasses.replace(
                    answer, out_of_distribution=strange, distance=distance, energy=energy
                )
            answers.append(answer)
        return answers

    def _probabilities(self, member: _Member, logits: np.ndarray, images: np.ndarray) -> np.ndarray:
        said = [logits, *(member.logits(view) for view in views(images, self._tta)[1:])]
        return np.mean([member.probabilities(one, calibrated=self.calibrated) for one in said], axis=0)

    def _sets(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Their coverage was calibrated for one run and one view; of averages nothing is known."""
        one = self._members[0].fitted
        if one is None or len(self._members) > 1 or self._tta:
            return None
        return one.conformal.sets(probabilities, "by_class")

    def _scores(self, images: np.ndarray, logits: Sequence[np.ndarray]) -> np.ndarray | None:
        """(N, 2) distance and energy over their thresholds: the medians over the runs, so that most must agree."""
        of_runs = []
        for member, said in zip(self._members, logits, strict=True):
            if member.run is None or member.fitted is None:
                return None
            novelty = member.fitted.novelty
            scores = novelty.scores(member.run.features(Images(images)), said)
            # The energy may be of either sign: its excess over the threshold, in units that grow with it.
            over = 1 + (scores[:, 1] - novelty.thresholds[1]) / max(1.0, abs(novelty.thresholds[1]))
            of_runs.append(np.stack([scores[:, 0] / max(novelty.thresholds[0], 1e-300), over], -1))
        return np.median(of_runs, axis=0)


def write_predictions(path: Path, answers: Sequence[Prediction], class_names: Sequence[str]) -> None:
    """A table, or JSON where the name ends in .json; whole or absent."""
    if path.suffix.lower() == ".json":
        rows = [dataclasses.asdict(answer) for answer in answers]
        write_atomically(path, json.dumps({"coverage": COVERAGE, "predictions": rows}, indent=1) + "\n")
        return
    header = ["file", "predicted", *(f"p_{name}" for name in class_names), "calibrated", "conformal_set"]
    header += ["out_of_distribution", "distance", "energy", "reason"]
    write_csv(path, header, (_cells(answer, class_names) for answer in answers))


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
        said = "NOT LIKE THE TRAINING IMAGES: no answer" if answer.out_of_distribution else ""
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
