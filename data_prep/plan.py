"""What the whole of a data set decides: whose images they are, which are copies, and which split each goes to.

The same for every runner: functions of what became of each file (`image_task.py`) and of the near copies found.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.audit.audit import Audit
from data_prep.audit.record import AuditRecord
from data_prep.deal import deal, without_dates
from data_prep.image_task import Failed, Prepared
from data_prep.manifest import Row, fingerprint
from data_prep.patients import assign_patients
from data_prep.prepared import PreparedImage, denoising_summary, hidden_name, make_rows
from data_prep.settings import PrepareSettings
from data_prep.shards import Example, Layout
from data_prep.source import Record, Rejected, Source, in_order
from data_prep.split_file import SplitFile
from data_prep.warnings import audit_warnings, noise_warnings, source_warnings, split_warnings
from data_prep.workers import TookTooLong, WorkerDied
from osteojax import leaky

# What became of one file.
Failure = Failed | WorkerDied | TookTooLong
Outcome = Prepared | Failure


@dataclasses.dataclass(frozen=True)
class Gathered:
    """A source after its tasks.

    Attributes:
        images: those that can be used, sorted by file.
        rejected: the others, sorted too.
        warnings: of the source.
    """

    images: Sequence[PreparedImage]
    rejected: Sequence[Rejected]
    warnings: Sequence[str]

    @property
    def audit_records(self) -> list[AuditRecord]:
        """The images as the audit sees them."""
        return [
            AuditRecord(
                file=image.record.file,
                label=image.record.label,
                patient_id=image.patient_id,
                sha256=image.prepared.sha256,
                n_bytes=image.prepared.n_bytes,
                width=image.prepared.width,
                height=image.prepared.height,
                bits=image.prepared.bits,
                sigma=image.prepared.sigma,
                metadata=image.metadata,
            )
            for image in self.images
        ]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a data set will hold.

    Attributes:
        rows: of the manifest.
        keys: of each row's image in the cache.
        rejected: what is left out, sorted by file.
        audit: what `audit.json` holds.
        warnings: what the user should know, one sentence each.
        content: fingerprint of the data set but for the mark.
        mark: of a split that leaks; None where none does.
        denoising: what `denoising.json` holds, or None.
        cache: where the images are.
    """

    rows: Sequence[Row]
    keys: Sequence[str]
    rejected: Sequence[Rejected]
    audit: Mapping[str, Any]
    warnings: Sequence[str]
    content: str
    mark: leaky.Mark | None
    denoising: Mapping[str, Any] | None
    cache: Path | str

    @property
    def fingerprint(self) -> str:
        """Of the data set."""
        return leaky.fingerprint(self.content, self.mark)

    @property
    def identity(self) -> dict[str, Any]:
        """What the data set's metadata say of fingerprint and mark."""
        if self.mark is None:
            return {"fingerprint": self.fingerprint}
        return {"fingerprint": self.fingerprint, "content": self.content, leaky.KEY: self.mark}

    @property
    def splits(self) -> dict[str, list[Example]]:
        """Split -> its examples in order."""
        return {
            name: [
                Example(row.id, row.file, row.label, row.patient_id, row.group, row.metadata)
                for row in self.rows
                if row.split == name
            ]
            for name in in_order(row.split for row in self.rows)
        }

    @property
    def image_keys(self) -> dict[str, str]:
        """Id -> key of the image in the cache."""
        return dict(zip((row.id for row in self.rows), self.keys, strict=True))

    def layout(self, settings: PrepareSettings) -> Layout:
        """What the records of its shards consist of."""
        examples = [example for split in self.splits.values() for example in split]
        return Layout.of(examples, settings.image_size, settings.class_names, settings.spec.channels)


def shown_as(settings: PrepareSettings, secret: bytes) -> Callable[[str], str]:
    """What everything that is written calls a file of the source."""
    if settings.privacy.file_names == "hash":
        return lambda file: hidden_name(file, secret)
    return str


def gather(
    listed: Source, outcomes: Sequence[Outcome | None], settings: PrepareSettings, secret: bytes
) -> Gathered:
    """Brings records and what became of them together.

    Args:
        listed: the source.
        outcomes: of its records, in their order; None of one that was not looked at.
        settings: of the preparation.
        secret: of the run, for names and ids that are hidden.
    """
    shown = shown_as(settings, secret)
    records = [dataclasses.replace(r, file=shown(r.file)) for r in listed.records]
    rejected = [dataclasses.replace(r, file=shown(r.file)) for r in listed.rejected]
    done: list[tuple[Record, Prepared]] = []
    for record, outcome in sorted(zip(records, outcomes, strict=True), key=lambda pair: pair[0].file):
        if isinstance(outcome, Prepared):
            done.append((record, outcome))
        elif outcome is not None:
            rejected.append(Rejected(record.file, _reason(outcome, settings)))
    patients = assign_patients(
        [record.file for record, _ in done],
        [record.patient_id for record, _ in done],
        [outcome.patient for _, outcome in done],
        secret if settings.privacy.patient_ids == "hash" else None,
    )
    images = [PreparedImage(record, outcome, patients[record.file]) for record, outcome in done]
    return Gathered(images, sorted(rejected, key=lambda r: (r.file, r.reason)), listed.warnings)


def _reason(outcome: Failure, settings: PrepareSettings) -> str:
    if isinstance(outcome, Failed):
        return outcome.reason
    if isinstance(outcome, WorkerDied):
        return "the worker process died on it (crash or out of memory)"
    return f"took longer than limits.seconds={settings.limits.seconds:g}"


def make_plan(
    gathered: Gathered,
    audit: Audit,
    settings: PrepareSettings,
    cache: Path | str,
    table: SplitFile | None = None,
) -> Plan:
    """Drops copies and contradictions, and deals whole groups to the splits.

    Args:
        gathered: the source after its tasks.
        audit: of its images.
        settings: of the preparation.
        cache: where the images are.
        table: that gives the splits; None where the source or the deal does.

    Raises:
        UserError: given splits leak or are not complete, nothing is left, or a split would lack what it needs.
    """
    images = table.of_images(gathered.images) if table else gathered.images
    dealt = deal(images, audit, settings)
    if table:
        table.check_complete(dealt.images)
    kept = without_dates(dealt.images, settings)
    rows = make_rows(kept, dealt.groups, dealt.splits, dealt.repeats)
    warnings = [
        *gathered.warnings,
        *source_warnings(images, settings),
        *audit_warnings(audit),
        *dealt.warnings,
        *split_warnings(rows, settings),
        *noise_warnings(rows, settings),
    ]
    return Plan(
        rows=rows,
        keys=[image.prepared.key for image in kept],
        rejected=sorted([*gathered.rejected, *dealt.left_out], key=lambda r: (r.file, r.reason)),
        audit={**audit.to_dict(), "warnings": warnings},
        warnings=warnings,
        content=fingerprint(rows, settings.spec.to_json(), settings.class_names),
        mark=dealt.mark,
        denoising=denoising_summary(kept),
        cache=cache,
    )
