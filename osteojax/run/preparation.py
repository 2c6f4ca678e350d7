"""Whether a dataset was prepared as the training data of a checkpoint were."""

import logging
from typing import Any

from data_prep.preprocess import PreprocessSpec
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError

log = logging.getLogger(__name__)


def check_same_preparation(record: dict[str, Any], dataset: PreparedDataset) -> None:
    """Refuses pixels that were made otherwise than those the network learned from.

    Raises:
        UserError: preprocessing or class names differ.
    """
    if list(dataset.class_names) != record["class_names"]:
        raise UserError(
            f"{dataset.directory} has classes {list(dataset.class_names)}, the checkpoint {record['class_names']}"
        )
    changed = preparation_differences(record, dataset)
    if changed:
        raise UserError(
            f"{dataset.directory} was prepared otherwise than the training data ({'; '.join(changed)}); "
            "prepare it again with the config of the training data"
        )
    if dataset.fingerprint != record["dataset_fingerprint"]:
        log.warning(
            "%s is not the dataset of the training run; make sure that no patient is in both",
            dataset.directory,
        )


def preparation_differences(record: dict[str, Any], dataset: PreparedDataset) -> list[str]:
    """`key: then -> now` of each field of the preprocessing that is not as a checkpoint's data had it."""
    then, now = (
        PreprocessSpec.from_dict(fields).to_dict()
        for fields in (record["preprocessing"], dataset.preprocessing)
    )
    return [
        f"{k}: {then.get(k)!r} -> {now.get(k)!r}" for k in sorted(then | now) if then.get(k) != now.get(k)
    ]
