"""`osteojax prep`: a source of labelled radiographs to a TFDS data set that cannot leak.

source -> decode, denoise, resize, normalise (one task an image) -> groups -> splits -> shards -> report.
Everything is written aside and renamed at the end: a killed run leaves nothing that looks whole, and the next run goes
on from the images that were finished.
"""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_prep.dataset_card import card
from data_prep.denoise.registry import DenoiseSpec
from data_prep.image_task import load_image
from data_prep.manifest import Row, write_json, write_manifest, write_quarantine
from data_prep.phantom import write_phantom
from data_prep.plan import shown_as
from data_prep.prepared import group_names, make_rows
from data_prep.preprocess import PreprocessSpec, preprocess_file
from data_prep.pseudonym import named_key
from data_prep.report import write_report
from data_prep.runner import Job, Runner, audit_locally, gather_locally, run_locally, worker_count
from data_prep.settings import PrepareSettings, read_settings
from data_prep.source import Rejected, Source, in_order, read_source
from data_prep.split_file import SplitFile
from data_prep.warnings import audit_warnings, source_warnings
from data_prep.workdir import (
    Workdir,
    check_destination,
    holds_audit,
    holds_dataset,
    open_workdir,
)
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically

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


def prepare(source: str | Path, out: Path, config: ConfigDict, run: Runner = run_locally) -> PrepareResult:
    """Prepares a data set; see `configs/prep/prep.py` for the config's fields.

    Args:
        source: a folder of class folders, a `labels.csv` or its folder, or "phantom".
        out: folder to create. It opens with `tfds.builder_from_directory(out)`.
        config: as `configs/prep/prep.py` documents it.
        run: who does the work; the data set is the same to the bit.

    Raises:
        UserError: for anything in the source, the config or the destination that the user can mend.
    """
    settings, out = read_settings(config), Path(out)
    with disk_errors(out):
        check_destination(_folder(source), out, ours=holds_dataset(out), overwrite=settings.overwrite)
    with open_workdir(out, named_key(settings.privacy.key_file)) as workdir:
        job = _job(source, settings.spec, workdir, settings, _split_file(settings))
        plan = run(job)
        for text in plan.warnings:
            log.warning("%s", text)
        _write_tables(workdir.result, plan.rows, plan.rejected, plan.audit)
        quality = plan.denoising
        if quality:
            write_json(workdir.result / "denoising.json", quality)
        keys = dict(zip((row.file for row in plan.rows), plan.keys, strict=True))
        write_report(
            workdir.result / "report.html",
            rows=plan.rows,
            rejected=plan.rejected,
            class_names=list(settings.class_names),
            spec=job.spec,
            fingerprint=plan.fingerprint,
            audit=plan.audit,
            warnings=plan.warnings,
            denoising=quality["mean"] if quality else None,
            load_image=lambda row: load_image(plan.cache, keys[row.file]),
            load_noisy=lambda row: _noisy(job, row.file),
            # Who works, and over what, changes no byte of the page.
            config={
                key: value for key, value in config.to_dict().items() if key not in ("workers", "overwrite")
            },
            dealing=settings.split.told(),
            mark=plan.mark,
        )
        write_atomically(
            workdir.result / "dataset_card.md",
            card(
                plan.rows,
                plan.rejected,
                class_names=settings.class_names,
                spec=job.spec.to_json(),
                fingerprint=plan.fingerprint,
                audit=plan.audit,
                warnings=plan.warnings,
                mark=plan.mark,
            ),
        )
        if str(source) == PHANTOM:
            job.listed.root.rename(workdir.result / PHANTOM)
        workdir.publish()
    counts = Counter(row.split for row in plan.rows)
    images_by_split = {name: counts[name] for name in in_order(counts)}
    shown = ", ".join(f"{name} {count}" for name, count in images_by_split.items())
    log.info("wrote %s: %s images; %d files left out (quarantine.csv)", out, shown, len(plan.rejected))
    return PrepareResult(
        out=out,
        images=images_by_split,
        quarantined=len(plan.rejected),
        fingerprint=plan.fingerprint,
        warnings=tuple(plan.warnings),
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
        job = _job(source, spec, workdir, settings)
        gathered = gather_locally(job)
        images = gathered.images
        audit = audit_locally(job, gathered)
        rows = make_rows(images, group_names(images, audit.groups), [""] * len(images))
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


def _noisy(job: Job, file: str) -> np.ndarray | None:
    """The image of a manifest's file prepared without denoising; None where the file cannot be read any more."""
    shown = shown_as(job.settings, job.workdir.secret)
    path = job.listed.root / next(r.file for r in job.listed.records if shown(r.file) == file)
    spec, limits = dataclasses.replace(job.spec, denoise=DenoiseSpec()), job.settings.limits.of_decoding
    try:
        return preprocess_file(path, spec, limits)
    except UserError:
        return None


def _folder(source: str | Path) -> Path | None:
    """The source's path; None for the phantom, which is made where the work is done."""
    return None if str(source) == PHANTOM else Path(source)


def _job(
    source: str | Path,
    spec: PreprocessSpec,
    workdir: Workdir,
    settings: PrepareSettings,
    table: SplitFile | None = None,
) -> Job:
    listed, clean = _read(source, workdir, settings)
    shown = shown_as(settings, workdir.secret)
    given = next((record for record in listed.records if record.split), None)
    if settings.split.folds and given:
        raise UserError(
            f"split.folds={settings.split.folds} deals all patients anew, but the source puts {shown(given.file)} into "
            f"{given.split}; take its splits away, or leave split.folds at 0"
        )
    if table is not None:
        listed = table.of_source(listed)
    return Job(listed, clean, spec, settings, workdir, table=table)


def _split_file(settings: PrepareSettings) -> SplitFile | None:
    return SplitFile.read(Path(settings.split.file), settings.fractions) if settings.split.file else None


def _read(
    source: str | Path, workdir: Workdir, settings: PrepareSettings
) -> tuple[Source, Mapping[str, Path]]:
    """The source's records, and for a phantom the clean image of each file."""
    if str(source) != PHANTOM:
        shown = shown_as(settings, workdir.secret)
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
        write_phantom(root, settings.phantom_config(workers=max(1, worker_count(settings))))
    return root


def _write_tables(
    folder: Path, rows: Sequence[Row], rejected: Sequence[Rejected], audit: Mapping[str, Any]
) -> None:
    write_manifest(folder / "manifest.csv", rows)
    write_quarantine(folder / "quarantine.csv", rejected)
    write_json(folder / "audit.json", audit)
