"""`osteojax prep`: a source of labelled radiographs to a TFDS data set that cannot leak.

source -> decode, denoise, resize, normalise (one task an image) -> groups -> splits -> shards -> report.
Everything is written aside and renamed at the end: a killed run leaves nothing that looks whole, and the next run goes
on from the images that were finished.
"""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep.audit.audit import Audit, audit_records
from data_prep.audit.record import AuditRecord
from data_prep.deal import deal, without_dates
from data_prep.decode import Limits
from data_prep.denoise.registry import DenoiseSpec
from data_prep.image_task import Failed, ImageTask, Prepared, load_image, prepare_image
from data_prep.manifest import Row, fingerprint, write_json, write_manifest, write_quarantine
from data_prep.patients import assign_patients
from data_prep.phantom import write_phantom
from data_prep.policies import check_quarantine
from data_prep.prepared import PreparedImage, denoising_summary, hidden_name, make_rows
from data_prep.preprocess import PreprocessSpec
from data_prep.pseudonym import named_key
from data_prep.report import write_report
from data_prep.settings import PrepareSettings, read_settings
from data_prep.shards import Example, write_shards
from data_prep.source import Record, Rejected, Source, in_order, read_source
from data_prep.split_file import SplitFile
from data_prep.warnings import audit_warnings, noise_warnings, source_warnings, split_warnings
from data_prep.workdir import (
    Workdir,
    check_destination,
    holds_audit,
    holds_dataset,
    open_workdir,
)
from data_prep.workers import WorkerDied, available_cores, run_tasks
from osteojax import leaky
from osteojax.errors import UserError
from osteojax.files import disk_errors
from osteojax.progress import progress

log = logging.getLogger(__name__)
PHANTOM = "phantom"


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """What a finished preparation produced.

    Attributes:
        out: the data set's folder.
        images: split -> number of images.
        quarantined: number of files left out; `quarantine.csv` has the reasons.
        fingerprint: of the data set, as in its metadata.
        warnings: what the user should know, one sentence each; also in `report.html`.
        denoising: mean PSNR and SSIM before and after denoising where the truth is known, else None.
    """

    out: Path
    images: Mapping[str, int]
    quarantined: int
    fingerprint: str
    warnings: tuple[str, ...]
    denoising: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class _Gathered:
    """A source after its tasks: where its files are, what became of them (sorted by file), what to know."""

    root: Path
    images: list[PreparedImage]
    rejected: list[Rejected]
    warnings: tuple[str, ...]


def prepare(source: str | Path, out: Path, config: ConfigDict) -> PrepareResult:
    """Prepares a data set; see `configs/prep/prep.py` for the config's fields.

    Args:
        source: a folder of class folders, a `labels.csv` or its folder, or "phantom".
        out: folder to create. It opens with `tfds.builder_from_directory(out)`.
        config: as `configs/prep/prep.py` documents it.

    Raises:
        UserError: for anything in the source, the config or the destination that the user can mend.
    """
    settings, out = read_settings(config), Path(out)
    spec = settings.spec
    with disk_errors(out):
        check_destination(_folder(source), out, ours=holds_dataset(out), overwrite=settings.overwrite)
    with open_workdir(out, named_key(settings.privacy.key_file)) as workdir:
        table = _split_file(settings)
        gathered = _gather(source, spec, workdir, settings, table)
        images = table.of_images(gathered.images) if table else gathered.images
        audit = _audit_images(images, workdir.cache, settings)
        dealt = deal(images, audit, settings)
        if table:
            table.check_complete(dealt.images)
        kept = without_dates(dealt.images, settings)
        rejected = sorted([*gathered.rejected, *dealt.left_out], key=lambda r: (r.file, r.reason))
        rows = make_rows(kept, dealt.groups, dealt.splits, dealt.repeats)
        warnings = [
            *gathered.warnings,
            *source_warnings(images, settings),
            *audit_warnings(audit),
            *dealt.warnings,
            *split_warnings(rows, settings),
            *noise_warnings(rows, settings),
        ]
        for text in warnings:
            log.warning("%s", text)

        content = fingerprint(rows, spec.to_json(), settings.class_names)
        digest = leaky.fingerprint(content, dealt.mark)
        identity: dict[str, Any] = {"fingerprint": digest}
        if dealt.mark is not None:
            identity |= {"content": content, leaky.KEY: dealt.mark}
        _write_dataset(workdir, rows, kept, spec, identity, settings)
        quality = denoising_summary(kept)
        _write_tables(workdir.result, rows, rejected, {**audit.to_dict(), "warnings": warnings})
        if quality:
            write_json(workdir.result / "denoising.json", quality)
        keys = {image.record.file: image.prepared.key for image in kept}
        write_report(
            workdir.result / "report.html",
            rows=rows,
            rejected=rejected,
            class_names=list(settings.class_names),
            spec=spec,
            fingerprint=digest,
            audit=audit.to_dict(),
            warnings=warnings,
            denoising=quality["mean"] if quality else None,
            load_image=lambda row: load_image(workdir.cache, keys[row.file]),
            dealing=settings.split.told(),
            mark=dealt.mark,
        )
        if str(source) == PHANTOM:
            gathered.root.rename(workdir.result / PHANTOM)
        workdir.publish()
    counts = Counter(row.split for row in rows)
    images_by_split = {name: counts[name] for name in in_order(counts)}
    shown = ", ".join(f"{name} {count}" for name, count in images_by_split.items())
    log.info("wrote %s: %s images; %d files left out (quarantine.csv)", out, shown, len(rejected))
    return PrepareResult(
        out=out,
        images=images_by_split,
        quarantined=len(rejected),
        fingerprint=digest,
        warnings=tuple(warnings),
        denoising=quality["mean"] if quality else None,
    )


def audit_source(source: str | Path, out: Path, config: ConfigDict) -> dict[str, Any]:
    """Looks at a source without preparing it: `manifest.csv` (no splits), `quarantine.csv` and `audit.json`.

    Args and errors as those of `prepare`; nothing is denoised.

    Returns:
        What `audit.json` holds.
    """
    settings, out = read_settings(config), Path(out)
    spec = dataclasses.replace(settings.spec, denoise=DenoiseSpec())
    with disk_errors(out):
        check_destination(_folder(source), out, ours=holds_audit(out), overwrite=settings.overwrite)
    with open_workdir(out, named_key(settings.privacy.key_file)) as workdir:
        workdir.result.mkdir()
        gathered = _gather(source, spec, workdir, settings)
        images = gathered.images
        audit = _audit_images(images, workdir.cache, settings)
        groups = {image.record.file: name for image, name in zip(images, audit.groups, strict=True)}
        rows = make_rows(images, groups, [""] * len(images))
        warnings = [*gathered.warnings, *source_warnings(images, settings), *audit_warnings(audit)]
        found = {**audit.to_dict(), "warnings": warnings}
        _write_tables(workdir.result, rows, gathered.rejected, found)
        workdir.publish()
    log.info(
        "audited %d images: %d pictures in several files, %d of them under contradictory labels; %d pairs of "
        "near copies; %d files unusable",
        len(images),
        len(found["exact_duplicates"]),
        len(found["conflicts"]),
        len(found["near_duplicates"]),
        len(gathered.rejected),
    )
    return found


def _folder(source: str | Path) -> Path | None:
    """The source's path; None for the phantom, which is made where the work is done."""
    return None if str(source) == PHANTOM else Path(source)


def _split_file(settings: PrepareSettings) -> SplitFile | None:
    return SplitFile.read(Path(settings.split.file), settings.fractions) if settings.split.file else None


def _gather(
    source: str | Path,
    spec: PreprocessSpec,
    workdir: Workdir,
    settings: PrepareSettings,
    table: SplitFile | None = None,
) -> _Gathered:
    listed, clean = _read(source, workdir, settings)
    shown = _shown(workdir, settings)
    given = next((record for record in listed.records if record.split), None)
    if settings.split.folds and given:
        raise UserError(
            f"split.folds={settings.split.folds} deals all patients anew, but the source puts {shown(given.file)} into "
            f"{given.split}; take its splits away, or leave split.folds at 0"
        )
    if table is not None:
        listed = table.of_source(listed)
    images, rejected = _process(listed, clean, spec, workdir, settings)
    total = len(listed.records) + len(listed.rejected)
    check_quarantine(rejected, total, workdir.folder, settings.quarantine.max_fraction)
    return _Gathered(listed.root, images, rejected, listed.warnings)


def _read(
    source: str | Path, workdir: Workdir, settings: PrepareSettings
) -> tuple[Source, Mapping[str, Path]]:
    """The source's records, and for a phantom the clean image of each file."""
    if str(source) != PHANTOM:
        shown = _shown(workdir, settings)
        return read_source(source, settings.class_names, settings.class_aliases, shown), {}
    root = _phantom(workdir.folder, settings)
    listed = read_source(root, settings.class_names, settings.class_aliases)
    clean = {r.file: root / "clean" / Path(r.file).name for r in listed.records}
    # The clean images are in no table, as they should be.
    return dataclasses.replace(listed, warnings=()), clean


def _phantom(folder: Path, settings: PrepareSettings) -> Path:
    """Generates the phantom, or takes the one that a killed run with the same config had finished."""
    digest = hashlib.sha256(repr(sorted(vars(settings.phantom).items())).encode()).hexdigest()[:12]
    root = folder / f"phantom-{digest}"
    if not root.exists():
        log.info("generating the phantom")
        write_phantom(root, settings.phantom_config(workers=max(1, _workers(settings))))
    return root


def _shown(workdir: Workdir, settings: PrepareSettings) -> Callable[[str], str]:
    """What everything that is written calls a file of the source."""
    if settings.privacy.file_names == "hash":
        return lambda file: hidden_name(file, workdir.secret)
    return str


def _workers(settings: PrepareSettings) -> int:
    return available_cores() if settings.workers < 0 else settings.workers


def _process(
    listed: Source,
    clean: Mapping[str, Path],
    spec: PreprocessSpec,
    workdir: Workdir,
    settings: PrepareSettings,
) -> tuple[list[PreparedImage], list[Rejected]]:
    """Runs the task of every record; the result does not depend on the number of workers."""
    limits = Limits(**vars(settings.limits))
    shown, secret = _shown(workdir, settings), workdir.secret
    tasks = [
        ImageTask(
            *(listed.root / r.file, clean.get(r.file), spec, limits, workdir.cache, secret, shown(r.file)),
            burned_in=settings.privacy.burned_in,
            dated=settings.dated,
        )
        for r in listed.records
    ]
    records = [dataclasses.replace(r, file=shown(r.file)) for r in listed.records]
    rejected = [dataclasses.replace(r, file=shown(r.file)) for r in listed.rejected]
    results: list[Prepared | Failed | None] = [None] * len(tasks)
    failures, total = len(rejected), len(tasks) + len(rejected)
    workers = 0 if spec.denoise.in_parent else min(_workers(settings), len(tasks))
    with progress("preparing images", len(tasks)) as advance:
        for index, result in run_tasks(prepare_image, tasks, workers):
            if isinstance(result, WorkerDied):
                result = Failed("the worker process died on it (crash or out of memory)")
            results[index] = result
            failures += isinstance(result, Failed)
            advance()
            if failures > settings.quarantine.max_fraction * total:
                break
    done: list[tuple[Record, Prepared]] = []
    for record, outcome in sorted(zip(records, results, strict=True), key=lambda pair: pair[0].file):
        if isinstance(outcome, Prepared):
            done.append((record, outcome))
        elif isinstance(outcome, Failed):
            rejected.append(Rejected(record.file, outcome.reason))
    patients = assign_patients(
        [record.file for record, _ in done],
        [record.patient_id for record, _ in done],
        [outcome.patient for _, outcome in done],
        secret if settings.privacy.patient_ids == "hash" else None,
    )
    images = [PreparedImage(record, outcome, patients[record.file]) for record, outcome in done]
    return images, sorted(rejected, key=lambda r: (r.file, r.reason))


def _audit_images(images: Sequence[PreparedImage], cache: Path, settings: PrepareSettings) -> Audit:
    """Copies, contradictions and shortcuts; near duplicates are sought on the prepared images."""
    log.info("auditing %d images", len(images))
    records = [
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
        for image in images
    ]
    return audit_records(
        records,
        lambda index: load_image(cache, images[index].prepared.key)[..., 0],
        near_duplicates=settings.audit.near_duplicates,
        shortcuts=settings.audit.shortcuts,
        seed=settings.seed,
    )


def _write_tables(
    folder: Path, rows: Sequence[Row], rejected: Sequence[Rejected], audit: Mapping[str, Any]
) -> None:
    write_manifest(folder / "manifest.csv", rows)
    write_quarantine(folder / "quarantine.csv", rejected)
    write_json(folder / "audit.json", audit)


def _write_dataset(
    workdir: Workdir,
    rows: Sequence[Row],
    kept: Sequence[PreparedImage],
    spec: PreprocessSpec,
    identity: Mapping[str, Any],
    settings: PrepareSettings,
) -> None:
    keys = {row.id: image.prepared.key for row, image in zip(rows, kept, strict=True)}
    splits: dict[str, list[Example]] = {}
    for name in in_order(row.split for row in rows):
        splits[name] = [
            Example(row.id, row.file, row.label, row.patient_id, row.group, row.metadata)
            for row in rows
            if row.split == name
        ]
    write_shards(
        workdir.result,
        splits,
        lambda example: load_image(workdir.cache, keys[example.id]),
        image_size=spec.image_size,
        class_names=list(settings.class_names),
        description={
            "preprocessing": spec.to_dict(),
            "class_names": list(settings.class_names),
            **identity,
            "split": {**settings.fractions, "seed": settings.seed, **settings.split.told()},
        },
    )
