"""Records after their tasks: what a prepared image is, and its row in the manifest."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.image_task import Prepared
from data_prep.manifest import Row
from data_prep.pseudonym import pseudonym
from data_prep.source import Record


@dataclasses.dataclass(frozen=True)
class PreparedImage:
    """A record together with what its task found, and whose image it is."""

    record: Record
    prepared: Prepared
    patient_id: str

    @property
    def metadata(self) -> dict[str, str]:
        """Column -> text: of the file itself, and of the source's table, which has the last word."""
        return {**self.prepared.metadata, **self.record.metadata}


def ids(images: Sequence[PreparedImage]) -> list[str]:
    """The id of each image: from the content, numbered where it is there several times."""
    copies: Counter[str] = Counter()
    found = []
    for image in images:
        sha256 = image.prepared.sha256
        copies[sha256] += 1
        found.append(sha256[:16] + (f"-{copies[sha256]}" if copies[sha256] > 1 else ""))
    return found


def group_names(images: Sequence[PreparedImage], names: Sequence[str]) -> dict[str, str]:
    """File -> group, from the name of each image's group."""
    return {image.record.file: name for image, name in zip(images, names, strict=True)}


def make_rows(
    images: Sequence[PreparedImage],
    groups: Mapping[str, str],
    splits: Sequence[str],
    repeats: Sequence[Sequence[str]] = (),
) -> list[Row]:
    """The manifest's rows.

    Args:
        images: in the order of their files.
        groups: file -> group.
        splits: of each image; "" where none was drawn.
        repeats: of further deals, the fold of each image.
    """
    rows = []
    for number, (image, name) in enumerate(zip(images, ids(images), strict=True)):
        done = image.prepared
        rows.append(
            Row(
                file=image.record.file,
                label=image.record.label,
                patient_id=image.patient_id,
                group=groups[image.record.file],
                split=splits[number],
                id=name,
                sha256=done.sha256,
                pixels=done.pixels_sha256,
                width=done.width,
                height=done.height,
                bits=done.bits,
                sigma=done.sigma,
                denoising=done.denoising,
                noise_warnings=done.warnings,
                notes=done.notes,
                metadata=image.metadata,
                repeats=tuple(deal[number] for deal in repeats),
                region=done.region,
            )
        )
    return rows


def denoising_summary(images: Sequence[PreparedImage]) -> dict[str, Any] | None:
    """PSNR and SSIM of each image against its clean original and their means; None without originals."""
    measured = {i.record.file: i.prepared.quality for i in images if i.prepared.quality}
    if not measured:
        return None
    names = next(iter(measured.values()))
    mean = {name: sum(q[name] for q in measured.values()) / len(measured) for name in names}
    return {"images": len(measured), "mean": mean, "per_image": measured}


def hidden_name(file: str, secret: bytes) -> str:
    """A name for a file that tells nothing of its own and depends on the run's secret."""
    return f"file-{pseudonym(secret, 'file', file)[:16]}"
