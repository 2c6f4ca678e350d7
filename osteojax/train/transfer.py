"""Weights of a run of ours: of another dataset, of the phantom, or learned without labels."""

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from osteojax import leaky, models, storage, weights
from osteojax.data import leaks
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.run.learned import KEYS, Rows, judged_by, read_learned
from osteojax.run.open import Run, open_run
from osteojax.run.preparation import preparation_differences
from osteojax.train.experiment import Experiment

log = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"(.+)/checkpoints/(\d+)/?")


def is_run(place: str) -> bool:
    """Whether `weights` means a run or a checkpoint of ours: a folder, here or on a store, and no published name."""
    if place in ("", weights.IMAGENET, *models.ARCHITECTURES.members):
        return False
    return storage.localise(_CHECKPOINT.sub(r"\1", place)).is_dir()


def open_source(place: str) -> Run:
    """The run at `place`, at its best step, or at that of `RUN/checkpoints/STEP`.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    found = _CHECKPOINT.fullmatch(place)
    return open_run(*(found.groups() if found else (place,)), classifies=False)


def weights_of(
    source: Run, place: str, experiment: Experiment, dataset: PreparedDataset
) -> weights.WeightsFile:
    """What a run starts with that starts from another: parameters and running statistics, and where they are from.

    They are those that the other run is evaluated with, its averages where it keeps them. Of the head everything behind
    the pooling but the last layer is taken; the last layer is only with `transfer.head="keep"`.

    Args:
        source: the other run.
        place: of it, as it is to be told.
        experiment: of this run.
        dataset: of this run.

    Raises:
        UserError: network, channels, input normalisation, or for the last layer classes are not the same; or the other
            run learned from what this one is judged by, and that is not allowed.
    """
    _check_fits(source, place, experiment, dataset)
    differences = preparation_differences(dict(source.record), dataset)
    if differences:
        log.warning("%s learned from images prepared otherwise (%s)", place, "; ".join(differences))
    kind = _head_of(source)
    left = "head/" if kind == "simsiam" else "head/fc/"
    arrays = {
        path: np.asarray(x)
        for path, x in (source.params | source.batch_stats).items()
        if experiment.transfer.head == "keep" or not path.startswith(left)
    }
    provenance = {
        "arch": experiment.model.name,
        "source": place,
        "step": source.step,
        "sha256": digest(arrays),
        "dataset_fingerprint": source.record["dataset_fingerprint"],
        leaky.KEY: source.mark,
        "seed": source.config.seed,
        "learned": "without labels (SimSiam)" if kind == "simsiam" else ", ".join(source.class_names),
        "head": experiment.transfer.head,
        "prepared_otherwise": differences,
        "overlap": check_overlap(read_learned(source), place, experiment, dataset),
        "origin": source.record["origin"],
    }
    return weights.WeightsFile(experiment.model.name, arrays, provenance)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of path, dtype, shape and bytes of all arrays, in the order of the paths."""
    found = hashlib.sha256()
    for path in sorted(arrays):
        found.update(f"{path} {arrays[path].dtype} {arrays[path].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[path]).tobytes())
    return found.hexdigest()


def input_of(architecture: str) -> dict[str, list[float]]:
    """How a network normalises its image: mean and std of RGB in [0, 1], as a checkpoint's record has them."""
    expected = models.ARCHITECTURES.get(architecture).preprocessing
    return {"mean": list(expected.mean), "std": list(expected.std)}


def _head_of(source: Run) -> str:
    return str(source.config.model.get("head", "softmax"))


def _check_fits(source: Run, place: str, experiment: Experiment, dataset: PreparedDataset) -> None:
    record, model = source.record, experiment.model
    architecture = record["origin"]["architecture"]
    if architecture != model.name:
        raise UserError(
            f"weights={place} are of {architecture}, and model.name={model.name!r}; set --config.model.name="
            f"{architecture}, or name other weights"
        )
    channels = record["image_shape"][-1], dataset.image_shape[-1]
    if channels[0] != channels[1]:
        raise UserError(
            f"weights={place} take images of {channels[0]} channels, and {dataset.directory} has {channels[1]}; "
            "name other weights"
        )
    then, now = record.get("input"), input_of(model.name)
    if then is not None and then != now:  # earlier releases wrote none
        raise UserError(
            f"weights={place} take images normalised by {then}, and {model.name} normalises by {now}; name other "
            "weights"
        )
    if experiment.transfer.head == "reset":
        return
    if source.class_names != list(dataset.class_names):
        raise UserError(
            f"transfer.head='keep': weights={place} tell {', '.join(source.class_names)} apart, and "
            f"{dataset.directory} has {', '.join(dataset.class_names)}; set --config.transfer.head=reset"
        )
    beside = [key for key in ("covariates", "t_score") if getattr(model, key) or source.config.model.get(key)]
    if beside:
        raise UserError(
            f"transfer.head='keep' keeps a last layer that knows the image alone, and model.{beside[0]} is set here or "
            f"in {place}; set --config.transfer.head=reset"
        )
    kind = _head_of(source)
    if kind != model.head or kind == "simsiam":
        raise UserError(
            f"transfer.head='keep': the head of weights={place} is {kind!r}, and model.head={model.head!r}; they must "
            "be of one kind that classifies, or set --config.transfer.head=reset"
        )


def check_overlap(
    learned: Rows | None, place: str, experiment: Experiment, dataset: PreparedDataset
) -> dict[str, Any]:
    """What the images that weights were learned from share with those that this run is judged by.

    Patients are compared by id, images by the hash of their decoded content. Copies that were encoded again, cropped or
    mirrored are not found: for those the two sources must be prepared together.

    Args:
        learned: the images; None where they are not known.
        place: of the weights, as it is to be told.
        experiment: of this run.
        dataset: of this run.

    Returns:
        JSON: whether it could be checked, the counts, and whether it was allowed to share something.

    Raises:
        UserError: they share something, and that is not allowed.
    """
    judged = judged_by(dataset, experiment.tested, experiment.eval.split)
    if learned is None or judged is None:
        missing = place if learned is None else dataset.directory
        log.warning(
            "weights=%s: whether they were learned from images of this run's validation or test was NOT checked: no "
            "hashes of the images of %s are at hand",
            place,
            missing,
        )
        return {"checked": False}
    shared = leaks.between(learned, judged, KEYS).shared
    allowed = experiment.transfer.allow_overlap
    if any(shared.values()) and not allowed:
        raise UserError(
            f"weights={place} were learned from {shared['patient_id']} patients (by id) and {shared['sha256']} images "
            f"(by content) that {dataset.directory} has for validation or test, so that this would measure memory; "
            "name other weights, or set --config.transfer.allow_overlap=True where the ids are equal by chance; the "
            "run is then marked"
        )
    return {"checked": True, "shared": shared, "allowed": allowed and any(shared.values())}
