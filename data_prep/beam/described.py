"""A prepared image's description, what the audit needs of it, beside the image in the cache."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.audit.keypoints import Keypoints
from data_prep.audit.near_duplicates import describe
from data_prep.image_task import Failed, ImageTask, Prepared, load_image, prepare_image
from osteojax.place import open_place


def prepare_and_describe(task: ImageTask) -> Prepared | Failed:
    """`prepare_image`, and about 70 KiB more in the cache."""
    outcome = prepare_image(task)
    if isinstance(outcome, Prepared):
        keypoints, thumbnail = describe(load_image(task.cache, outcome.key)[..., 0])
        stream = io.BytesIO()
        np.savez(stream, points=keypoints.points, sift=keypoints.sift, thumbnail=thumbnail)
        open_place(task.cache).write(_name(outcome.key), stream.getvalue())
    return outcome


def read_keypoints(cache: Path | str, key: str) -> Keypoints:
    """Those of a described image."""
    return Keypoints(_read(cache, key, "points"), _read(cache, key, "sift"))


def read_thumbnail(cache: Path | str, key: str) -> NDArray[np.uint8]:
    """That of a described image."""
    return _read(cache, key, "thumbnail")


def _name(key: str) -> str:
    return f"{key}.described.npz"


def _read(cache: Path | str, key: str, what: str) -> NDArray:
    content = open_place(cache).read(_name(key))
    if content is None:
        raise FileNotFoundError(f"{cache} has no description of {key}")
    with np.load(io.BytesIO(content), allow_pickle=False) as entry:
        return entry[what]
