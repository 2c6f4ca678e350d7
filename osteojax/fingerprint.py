"""What tells a prepared dataset from every other: one hash over all that a result on it depends on."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from osteojax import folds

_IDENTITY = ("sha256", "pixels", "label", "patient_id", "group", "split")


def of_images(
    images: Iterable[Mapping[str, str]], spec: str, class_names: Sequence[str], repeats: int = 1
) -> str:
    """SHA-256 in hex over contents, prepared pixels, labels, patients, groups and splits, the preprocessing spec and
    the order of the classes. The order of the images and where their files lie do not count.

    Args:
        images: rows of the manifest, by its columns.
        spec: of the preprocessing, as canonical JSON.
        class_names: in label order.
        repeats: how many deals there are.
    """
    keys = (*_IDENTITY, *map(folds.column, range(1, repeats)))
    identities = sorted(tuple(image[key] for key in keys) for image in images)
    text = json.dumps([identities, spec, list(class_names)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
