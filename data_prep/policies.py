"""What is done about copies, contradictions and files that cannot be used."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_prep.manifest import write_quarantine
from data_prep.prepared import PreparedImage
from data_prep.source import Rejected
from osteojax.errors import UserError


def resolve_duplicates(
    images: Sequence[PreparedImage], conflicts: str, duplicates: str
) -> tuple[list[PreparedImage], list[Rejected]]:
    """The images to keep, and the others with the reason: contradictory truth is neither learned nor scored, and
    nothing is counted twice.

    Args:
        images: sorted by file.
        conflicts: "quarantine" or "keep" identical pixels under several labels.
        duplicates: "drop" all but the first of identical pixels under one label, or "keep" them.

    Raises:
        UserError: nothing is left.
    """
    dropped: dict[str, str] = {}
    for group in _by_content(images):
        if len({i.record.label for i in group}) > 1:
            if conflicts == "quarantine":
                listing = ", ".join(f"{i.record.file} ({i.record.label})" for i in group)
                dropped |= {
                    i.record.file: f"identical pixels, contradictory labels: {listing}" for i in group
                }
        elif duplicates == "drop":
            dropped |= {i.record.file: f"identical pixels to {group[0].record.file}" for i in group[1:]}
    kept = [i for i in images if i.record.file not in dropped]
    if not kept:
        raise UserError("no image is left: all of them contradict each other's labels")
    return kept, [Rejected(file, reason) for file, reason in dropped.items()]


def _by_content(images: Sequence[PreparedImage]) -> list[list[PreparedImage]]:
    """Images with identical pixels, each list and the list of lists sorted by file."""
    same = defaultdict(list)
    for image in images:
        same[image.prepared.sha256].append(image)
    return [group for group in same.values() if len(group) > 1]


def too_many(rejected: Sequence[Rejected], total: int, max_fraction: float) -> bool:
    """Whether too many files of `total` cannot be used, or no other is left."""
    return len(rejected) > max_fraction * total or len(rejected) == total


def check_quarantine(rejected: Sequence[Rejected], total: int, folder: Path, max_fraction: float) -> None:
    """Stops a run of which too many files cannot be used, and lists them in `folder`/quarantine.csv.

    Raises:
        UserError: there are more than `max_fraction` of `total`, or no other.
    """
    if len(rejected) > max_fraction * total:
        listing = folder / "quarantine.csv"
        write_quarantine(listing, rejected)
        examples = "; ".join(f"{r.file}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"stopped: {len(rejected)} of {total} files so far cannot be used ({examples}); "
            f"quarantine.max_fraction={max_fraction:g} allows fewer. They are listed in {listing}: mend them or raise "
            "the limit"
        )
    if len(rejected) == total:
        raise UserError("no image is left to prepare")
