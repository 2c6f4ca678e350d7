"""The mark of what may measure memory: this module says what is leaky, all others read it and hand it on.

A dataset whose split was allowed to leak (`osteojax prep --allow_leaky_split`) has the mark in its metadata, sealed in
its fingerprint. Every record that is made from it (checkpoint, metrics.json, model.json, ...) has the mark under `KEY`,
and the fingerprint, whose ending says so too: a record that lost the one is still told by the other.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from osteojax.errors import UserError

Mark = dict[str, Any]
"""`reason`, a clause, and `counts`: of the images that are tested, and of those that leak, in all and by kind."""
KEY = "leaky"
WORDS = "LEAKY SPLIT"
_ENDING = "-leaky"
_KINDS = {"patient": "by patient", "pixels": "with identical pixels", "near_copy": "as near copies"}


def fingerprint(content: str, mark: Mark | None) -> str:
    """The fingerprint of a dataset: the SHA-256 of its content, with the mark hashed into it where there is one."""
    if mark is None:
        return content
    text = json.dumps([content, mark], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest() + _ENDING


def sealed(metadata: Mapping[str, Any], where: object) -> Mark | None:
    """The mark of a dataset, from its metadata; None where its split was not allowed to leak.

    Args:
        metadata: has `fingerprint`; of a marked one `content`, the fingerprint without the mark, and the mark.
        where: the dataset lies, for the message.

    Raises:
        UserError: mark and fingerprint are not those that were written together.
    """
    mark, stated = metadata.get(KEY), str(metadata["fingerprint"])
    if mark is None and not stated.endswith(_ENDING):
        return None
    if not isinstance(mark, dict) or stated != fingerprint(str(metadata.get("content")), mark):
        raise UserError(
            f"{where}: its split was allowed to leak, and the mark that says so was changed or taken away; prepare it "
            "again, with a split that does not leak if the mark is not wanted"
        )
    return mark


def of(record: Mapping[str, Any]) -> Mark | None:
    """The mark of a record: of a checkpoint, metrics.json, model.json, a comparison; None where it has none."""
    mark = record.get(KEY)
    if isinstance(mark, dict):
        counts = mark.get("counts")
        known = counts if isinstance(counts, dict) and all(type(n) is int for n in counts.values()) else {}
        return {"reason": str(mark.get("reason")), "counts": known}
    if mark:  # of a table, which has the reason alone
        return {"reason": str(mark), "counts": {}}
    if str(record.get("dataset_fingerprint", "")).endswith(_ENDING):
        return {"reason": "the fingerprint of its data says so, and the mark was taken away", "counts": {}}
    return None


def from_weights(origin: Mapping[str, Any]) -> Mark | None:
    """The mark that a run has from the weights that it started from; `origin` as in a checkpoint's record."""
    mark = of(origin.get("weights") or {})
    told_before = mark is not None and str(mark["reason"]).startswith("the weights")
    return (
        mark
        if mark is None or told_before
        else {**mark, "reason": f"the weights learned so: {mark['reason']}"}
    )


def together(marks: Iterable[Mark | None]) -> Mark | None:
    """The mark of what several make together: one that leaks makes all of it leaky; of counts the largest."""
    found = [mark for mark in marks if mark is not None]
    if not found:
        return None
    counts: dict[str, int] = {}
    for mark in found:
        for key, count in mark["counts"].items():
            counts[key] = max(count, counts.get(key, 0))
    return {"reason": "; ".join(dict.fromkeys(mark["reason"] for mark in found)), "counts": counts}


def told(mark: Mark) -> str:
    """The mark in a sentence, for a person."""
    counts = mark["counts"]
    how = ""
    if {"tested", "leaking"} <= counts.keys():
        kinds = ", ".join(f"{counts[kind]} {words}" for kind, words in _KINDS.items() if kind in counts)
        unknown = "" if "near_copy" in counts else "; near copies were not looked for"
        how = f"; of {counts['tested']} images that are tested {counts['leaking']} leak ({kinds}{unknown})"
    return f"{WORDS}: {mark['reason']}{how}. What is measured here may be memory"


def title(text: str, mark: Mark | None) -> str:
    """A title, with the mark before it where there is one."""
    return text if mark is None else f"{WORDS} ({mark['reason']}). {text}"
