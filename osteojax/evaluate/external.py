"""Another institution's dataset: what of it was learned from, and how its classes are shared otherwise."""

import logging
from typing import Any

import numpy as np

from osteojax import folds, storage
from osteojax.data import leaks
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import with_intervals
from osteojax.run.learned import read_learned
from osteojax.run.open import Run

log = logging.getLogger(__name__)
_RECALIBRATED = ("accuracy", "balanced_accuracy", "brier", "cross_entropy", "ece")
_LEAST = 1e-12


def check_overlap(run: Run, dataset: PreparedDataset, split: str, *, allowed: bool) -> dict[str, Any]:
    """What the run's own dataset and another one share: patients (by id), and images (by the hash of their pixels).

    What the run started from, and what that learned from, counts as its own where its folder says so.
    Near copies are looked for within one preparation only: prepare both sources together to find those.

    Returns:
        JSON: whether it could be checked, and the counts.

    Raises:
        UserError: they share something, and that is not allowed.
    """
    own = _own_manifest(run)
    theirs = leaks.read_manifest(dataset.directory)
    if own is None or theirs is None:
        log.warning(
            "a manifest is not at hand: whether training images are among those tested was not checked"
        )
        return {"checked": False}
    tested = [row for row in theirs if row["split"] == split]
    learned = [row for row in own if row["split"] != "test"] + (read_learned(run) or [])
    # Not by group: its names mean something within one dataset only.
    shared = dict(leaks.between(learned, tested, ("patient_id", "pixels", "sha256")).shared)
    shared["pixels"] = max(shared["pixels"], shared.pop("sha256"))
    if any(shared.values()) and not allowed:
        told = f"{shared['patient_id']} patient ids and {shared['pixels']} identical images"
        raise UserError(
            f"{dataset.directory}: {told} are in the training data of {run.workdir} too, so that this would measure "
            "memory; leave them out, or say --allow_overlap where the ids of two hospitals are equal by chance"
        )
    return {"checked": True, "shared": shared, "allowed": allowed}


def prevalence(run: Run, sample: Sample, probabilities: np.ndarray) -> dict[str, Any]:
    """Class shares of training and of this split; and what probabilities moved to the latter would score.

    Recalibration in the large (Saerens et al. 2002, eq. 4) uses the labels of the very images that are tested: it shows
    what knowing the shares would bring, and is no result of this network.
    """
    own = _own_manifest(run)
    here = sample.given.true.mean(0)
    found: dict[str, Any] = {"tested": dict(zip(run.class_names, map(float, here), strict=True))}
    if own is None:
        return found
    labels = [row["label"] for row in leaks.part(own, "train", int(run.config.get("fold", folds.NONE)))]
    then = np.asarray([labels.count(name) for name in run.class_names], float)
    if not then.sum():
        return found
    then /= then.sum()
    found["trained_on"] = dict(zip(run.class_names, map(float, then), strict=True))
    moved = shifted(probabilities, here, then)
    again = sample.with_logits(np.log(np.maximum(moved, _LEAST)))
    found["recalibrated_in_the_large"] = {
        name: with_intervals(METRICS.get(name), again)[0] for name in _RECALIBRATED
    }
    return found


def shifted(probabilities: np.ndarray, here: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) for class shares `here` (C,) of a network that learned from shares `then` (C,)."""
    moved = probabilities * here / np.maximum(then, _LEAST)
    return moved / moved.sum(-1, keepdims=True)


def _own_manifest(run: Run) -> list[dict[str, str]] | None:
    try:
        return leaks.read_manifest(storage.localise(run.config.data.dir))
    except UserError:
        return None
