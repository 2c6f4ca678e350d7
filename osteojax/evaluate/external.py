"""Another institution's dataset: what of it was learned from, and how its classes are shared otherwise."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osteojax import storage
from osteojax.data import leaks
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate.near_copies import near_copies
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import with_intervals
from osteojax.run.learned import read_learned
from osteojax.run.open import Run

log = logging.getLogger(__name__)
_RECALIBRATED = ("accuracy", "balanced_accuracy", "brier", "cross_entropy", "ece")
_LEAST = 1e-12


def check_overlap(
    run: Run, dataset: PreparedDataset, split: str, *, allowed: bool, search: bool = True
) -> dict[str, Any]:
    """What a run learned from, or chose its checkpoint on, of what another dataset tests.

    What the run started from, and what that learned from, counts as its own where its folder says so.

    Args:
        run: a run on a dataset of its own.
        dataset: the other one.
        split: of that one.
        allowed: whether they may share something.
        search: whether to look for near copies, which takes a tenth of a second an image of either.

    Returns:
        JSON: `checked`, whether the manifests of both are at hand; if so `shared`, how many patients (by id) and
        images (by the hash of their pixels, and near copies, those identical among them), and `near_copies`, which.
        The latter two are null where they were not looked for or the run's dataset is not at hand.

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
    learned = [row for name in ("train", "val") for row in leaks.part(own, name, *run.tested)]
    learned += read_learned(run) or []
    tested = [row for row in theirs if row["split"] == split]
    # Not by group: its names mean something within one dataset only.
    found = leaks.between(learned, tested, ("patient_id", "pixels", "sha256")).shared
    copies = _near_copies(run, dataset, split) if search else None
    shared = {
        "patient_id": found["patient_id"],
        "pixels": max(found["pixels"], found["sha256"]),
        "near_copies": None if copies is None else len(copies),
    }
    if any(shared.values()) and not allowed:
        told = (
            f"{shared['patient_id']} patient ids, {shared['pixels']} identical images and {shared['near_copies'] or 0} "
            "near copies"
        )
        example = f", such as {copies[0]['tested']} of {copies[0]['learned']}," if copies else ""
        raise UserError(
            f"{dataset.directory}: {told}{example} are in the training data of {run.workdir} too, so that this would "
            "measure memory; leave them out, or say --allow_overlap where the ids of two hospitals are equal by chance"
        )
    return {"checked": True, "shared": shared, "near_copies": copies, "allowed": allowed}


def together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several runs, at least one, learned from of a dataset: the most that any of them did, unknown if one is."""
    if not all(one["checked"] for one in found):
        return {"checked": False}
    shared = {}
    for key in found[0]["shared"]:
        counts = [one["shared"][key] for one in found]
        shared[key] = None if None in counts else max(counts)
    searched = [one["near_copies"] for one in found]
    copies = None if None in searched else [copy for one in searched for copy in one]
    return {"checked": True, "shared": shared, "near_copies": copies, "allowed": found[0]["allowed"]}


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
    labels = [row["label"] for row in leaks.part(own, "train", *run.tested)]
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


def _near_copies(run: Run, dataset: PreparedDataset, split: str) -> list[dict[str, Any]] | None:
    """None where the dataset that the run learned from is not at hand."""
    try:
        own = run.own_dataset()
    except UserError as error:
        log.warning("near copies of training images were not looked for: %s", error)
        return None
    return [dataclasses.asdict(copy) for copy in near_copies(own, dataset, split)]


def _own_manifest(run: Run) -> list[dict[str, str]] | None:
    try:
        return leaks.read_manifest(storage.localise(run.config.data.dir))
    except UserError:
        return None
