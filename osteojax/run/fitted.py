"""What was fitted for a checkpoint on its validation and training images; kept in the workdir.

It is fitted once, where the run's own dataset is at hand, and serves evaluation and prediction wherever the workdir is.
"""

import dataclasses
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from osteojax.calibration.conformal import ConformalSets
from osteojax.calibration.novelty import Novelty
from osteojax.calibration.temperature import fit_temperature
from osteojax.data.dataset import NO_SPLIT, Examples, Some
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically
from osteojax.run.open import Run

log = logging.getLogger(__name__)

_VERSION = 1
_ARRAYS = ("logits", "labels", "means", "axes", "variances", "rest", "thresholds")
# Enough to know where training images lie; evenly spread over the split.
_TRAINING_IMAGES = 2000


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What validation teaches about the answers of a network, or of several that answer as one.

    Attributes:
        logits, labels: (N, C) and (N,) of the validation images.
        temperature: that makes the logits' probabilities fit the labels.
    """

    logits: np.ndarray
    labels: np.ndarray
    temperature: float

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (N, C) float64 of logits."""
        return softmax(logits.astype(np.float64) / self.temperature, axis=-1)

    @property
    def conformal(self) -> ConformalSets:
        """Prediction sets, calibrated on the calibrated probabilities of validation."""
        return ConformalSets(self.probabilities(self.logits), self.labels)


@dataclasses.dataclass(frozen=True)
class Fitted(Calibrated):
    """What is known of a checkpoint beside its parameters.

    Attributes:
        novelty: what training images look like.
        mirrored: (N, C) logits of the mirrored validation images; None where nobody asked for them yet.
    """

    novelty: Novelty
    mirrored: np.ndarray | None = None


def fitted(run: Run, *, mirrored: bool = False) -> Fitted | None:
    """What was fitted for this checkpoint; fitted now where that was not done yet and the run's dataset is at hand.

    None where the run has no validation split, or the dataset is not there.

    Args:
        run: the checkpoint.
        mirrored: with the answers to the mirrored validation images, where the dataset is at hand.
    """
    path = run.workdir / "fitted" / f"step-{run.step}.npz"
    found = _load(path, run)
    if found is not None and (found.mirrored is not None or not mirrored):
        return found
    split = run.config.eval.split
    if split == NO_SPLIT:
        log.warning(
            "the run has no validation split: probabilities are not calibrated, and nothing is flagged"
        )
        return None
    try:
        dataset = run.dataset()
        if dataset.fingerprint != run.record["dataset_fingerprint"]:
            raise UserError(f"{dataset.directory} is not the run's own dataset")
        validation, training = dataset.source(split), dataset.source("train")
    except UserError as error:
        if found is None:
            log.warning("%s: probabilities are not calibrated, and nothing is flagged", error)
        return found
    result = found or _fit(run, validation, training)
    if mirrored:
        result = dataclasses.replace(result, mirrored=run.logits(Mirrored(validation)))
    if jax.process_index() == 0:
        try:
            with disk_errors(path):
                _save(path, run, result)
        except UserError as error:  # somebody else's run, which may be read and no more
            log.warning("%s; it is fitted again the next time", error)
    return result


def _fit(run: Run, validation: Examples, training: Examples) -> Fitted:
    some = Some(training, np.unique(np.linspace(0, len(training) - 1, _TRAINING_IMAGES).astype(int)))
    logits, labels = run.logits(validation), validation.labels()
    novelty = Novelty.fit(run.features(some), some.labels(), run.features(validation), logits)
    return Fitted(logits, labels, fit_temperature(logits, labels), novelty)


class Mirrored(Examples):
    """The examples of a source with their images mirrored, left for right.

    Args:
        source: of the examples.
    """

    def __init__(self, source: Examples) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The mirrored examples at these places."""
        found = self._source.__getitems__(indices)
        return [example | {"image": np.asarray(example["image"])[:, ::-1]} for example in found]

    def identities(self) -> list[dict[str, Any]]:
        """See `Examples`."""
        return self._source.identities()


def _identity(run: Run) -> dict[str, Any]:
    """What tells the checkpoint: another one in its place is fitted anew."""
    arrays = run.record.get("arrays") or {}
    return {
        "version": _VERSION,
        "step": run.step,
        "config_hash": run.record["config_hash"],
        "dataset_fingerprint": run.record["dataset_fingerprint"],
        "parameters": zlib.crc32(json.dumps(arrays, sort_keys=True).encode()),
    }


def _save(path: Path, run: Run, result: Fitted) -> None:
    fields: dict[str, Any] = {"logits": result.logits, "labels": result.labels} | {
        field.name: np.asarray(getattr(result.novelty, field.name)) for field in dataclasses.fields(Novelty)
    }
    if result.mirrored is not None:
        fields["mirrored"] = result.mirrored
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        identity=np.frombuffer(json.dumps(_identity(run)).encode(), np.uint8),
        temperature=np.float64(result.temperature),
        **fields,
    )
    write_atomically(path, stream.getvalue())


def _load(path: Path, run: Run) -> Fitted | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:  # zip members carry a CRC of their own
            if json.loads(file["identity"].tobytes()) != _identity(run):
                log.info("%s belongs to another checkpoint; it is fitted anew", path)
                return None
            arrays = {name: file[name] for name in _ARRAYS}
            mirrored = file["mirrored"] if "mirrored" in file.files else None
            temperature = float(file["temperature"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s); it is fitted anew", path, type(error).__name__)
        return None
    logits, labels, rest = arrays.pop("logits"), arrays.pop("labels"), float(arrays.pop("rest"))
    return Fitted(logits, labels, temperature, Novelty(rest=rest, **arrays), mirrored)
