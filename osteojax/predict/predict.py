"""Classifies files with one run or several, and says where it should not be believed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from data_prep.preprocess import PreprocessSpec
from osteojax import leaky
from osteojax.errors import UserError
from osteojax.export.read import Exported
from osteojax.predict.answer import Prediction
from osteojax.predict.covariates import read_covariates
from osteojax.predict.explain import explain_files
from osteojax.predict.files import Images, find_files, read_files
from osteojax.predict.structured_report import Filed, write_reports
from osteojax.predict.views import MIRROR, check_views, views
from osteojax.run.consensus import combined, fitted_together
from osteojax.run.fitted import Calibrated, Fitted, fitted
from osteojax.run.open import Run

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class _Member:
    """One network of a predictor.

    Attributes:
        name: for messages.
        record: has class_names, preprocessing, config_hash and checkpoint_step.
        answers: of images (N, H, W, C) and what is known of each beside it: logits, and T-scores (N,) or None.
        temperature: that calibrates them; None where nothing does.
        run, fitted: None for an exported network, which says nothing of strange images.
    """

    name: str
    record: Mapping[str, Any]
    answers: Callable[[np.ndarray, Sequence[Mapping[str, str]]], tuple[np.ndarray, np.ndarray | None]]
    temperature: float | None
    run: Run | None
    fitted: Fitted | None

    @classmethod
    def of(cls, model: Run | Exported, *, tta: bool) -> "_Member":
        if isinstance(model, Exported):
            record = {**model.description, "class_names": list(model.class_names)}
            temperature = model.description.get("temperature")
            return cls(
                str(model.folder),
                record,
                lambda images, rows: (_in_batches(model, images), None),
                temperature,
                None,
                None,
            )
        known = fitted(model, mirrored=tta)
        temperature = known.temperature if known else None
        return cls(
            str(model.workdir),
            {**model.record, "checkpoint_step": model.step},
            lambda images, rows: model.answers(Images(images, rows)),
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
        covariates: table of what is known of the files beside their images (`osteojax.predict.covariates`); None for
            none.

    Attributes:
        class_names: in label order.
        spec: how images are prepared.
        without_sets: why there are no conformal sets; None where there are.
        mark: where a leaky split had a part in one of the networks.

    Raises:
        UserError: they do not have the same classes and preprocessing, or the table is not what they take.
    """

    def __init__(
        self, models: Sequence[Run | Exported], *, tta: Sequence[str] = (), covariates: Path | None = None
    ) -> None:
        check_views(tta)
        self._covariates = read_covariates(
            covariates, [m.columns for m in models if isinstance(m, Run) and m.columns is not None]
        )
        self._tta = tuple(dict.fromkeys(tta))
        self._members = [_Member.of(model, tta=self._tta == (MIRROR,)) for model in models]
        first = self._members[0]
        for member in self._members[1:]:
            if any(member.record[key] != first.record[key] for key in ("class_names", "preprocessing")):
                raise UserError(
                    f"{member.name} and {first.name} have other classes or another preprocessing; an ensemble is of "
                    "runs on one kind of image"
                )
        self.class_names = list(first.record["class_names"])
        self.spec = PreprocessSpec.from_dict(dict(first.record["preprocessing"]))
        self._together, self.without_sets = self._fitted_together()
        self.mark = leaky.together(leaky.of(member.record) for member in self._members)
        self._said = "" if self.mark is None else leaky.told(self.mark)

    def _fitted_together(self) -> tuple[Calibrated | None, str | None]:
        if self._tta not in ((), (MIRROR,)):
            return (
                None,
                f"validation was not asked in these views ({', '.join(self._tta)}), only in the mirror image",
            )
        runs = []
        for member in self._members:
            if member.run is None:
                return (
                    None,
                    f"{member.name} is an exported network, which carries no answers to validation images",
                )
            runs.append(member.run)
        return fitted_together(runs, [member.fitted for member in self._members], mirrored=bool(self._tta))

    @property
    def calibrated(self) -> bool:
        """Whether a temperature is applied: that of the ensemble, or where there is none that of every network."""
        return self._together is not None or all(member.temperature is not None for member in self._members)

    def explain(self, answers: Sequence[Prediction], folder: Path) -> None:
        """Draws for each answered file where the first run's network looked, over the radiograph in its own geometry.

        Raises:
            UserError: the network is an exported one.
        """
        first = self._members[0].run
        if first is None:
            raise UserError("an exported network cannot be explained: its inside is closed; give --workdir")
        if first.columns is not None:
            raise UserError(
                f"--explain: {first.workdir} takes columns beside the image, and maps of an image do not show what "
                "they say; leave it out"
            )
        explain_files(
            first,
            self.spec,
            [(Path(a.file), self.class_names.index(a.predicted)) for a in answers if a.predicted],
            folder,
        )

    def report(self, answers: Sequence[Prediction], folder: Path) -> list[Filed]:
        """Writes a DICOM structured report for each answered DICOM file; what came of each answered file.

        Raises:
            UserError: highdicom is not installed, or the folder cannot be written to.
        """
        fields = ("config_hash", "checkpoint_step", "dataset_fingerprint")
        networks = [
            {key: member.record.get(key) for key in fields} | {"views": list(self._tta)}
            for member in self._members
        ]
        return write_reports(answers, self.class_names, networks, folder)

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
                next(found)
                if one.image is not None
                else Prediction(str(one.file), reason=one.reason, leaky=self._said)
                for one in portion
            ]
        return answers

    def of_images(self, images: Float[np.ndarray, "n h w c"], names: Sequence[str]) -> list[Prediction]:
        """Likewise for images that are preprocessed already: float32 in [0, 1]; `names` are their files'."""
        seen, known = views(images, self._tta), [self._covariates.of(name) for name in names]
        found = [[member.answers(view, known) for view in seen] for member in self._members]
        said = [[logits for logits, _ in of_member] for of_member in found]
        given: list[Any] = [score for of_member in found for _, score in of_member]
        sets = None
        if self._together is not None:
            probabilities = self._together.probabilities(combined([view for of in said for view in of]))
            sets = self._together.conformal.sets(probabilities, "by_class")
        else:
            probabilities = np.mean(
                [
                    member.probabilities(view, calibrated=self.calibrated)
                    for member, of_member in zip(self._members, said, strict=True)
                    for view in of_member
                ],
                axis=0,
            )
        logits = [of_member[0] for of_member in said]
        scores = self._scores(images, logits)
        t_score = None if any(one is None for one in given) else np.mean(np.stack(given), axis=0)
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
                leaky=self._said,
                t_score=None if t_score is None else float(t_score[row]),
            )
            if scores is not None:
                distance, energy = map(float, scores[row])
                strange = distance > 1 or energy > 1
                answer = dataclasses.replace(
                    answer, out_of_distribution=strange, distance=distance, energy=energy
                )
            answers.append(answer)
        return answers

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
