"""`osteojax prep`: a source of labelled radiographs to a TFDS data set that cannot leak.

source -> decode, denoise, resize, normalise (one task an image) -> groups -> splits -> shards -> report.
Everything is written into `<out>.partial` and renamed at the end: a killed run leaves nothing that looks
whole, and the next run goes on from the images that were finished.
"""

import dataclasses
import fcntl
import hashlib
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep.audit.audit import Audit, AuditRecord, audit_records
from data_prep.decode import Limits
from data_prep.image_task import Failed, ImageTask, Prepared, load_image, prepare_image
from data_prep.manifest import Row, fingerprint, write_json, write_manifest, write_quarantine
from data_prep.patients import assign_patients, patient_warnings
from data_prep.preprocess import PreprocessSpec
from data_prep.report import write_report
from data_prep.shards import Example, write_shards
from data_prep.source import SPLITS, Record, Rejected, Source, read_source
from data_prep.split import assign_splits, check_given_splits, missing_classes
from data_prep.workers import WorkerDied, available_cores, run_tasks
from osteojax.errors import UserError
from osteojax.progress import progress

_LOG = logging.getLogger(__name__)
PHANTOM = "phantom"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class _Image:
    """A record together with what its task found."""

    record: Record
    prepared: Prepared
    patient_id: str


def prepare(source: str | Path, out: Path, config: ConfigDict) -> PrepareResult:
    """Prepares a data set; see `configs/prep/prep.py` for the config's fields.

    Args:
      source: a folder of class folders, a `labels.csv` or its folder, or "phantom".
      out: folder to create. It opens with `tfds.builder_from_directory(out)`.
      config: as `configs/prep/prep.py` documents it.

    Raises:
      UserError: for anything in the source, the config or the destination that the user can mend.
    """
    out = Path(out)
    spec = preprocess_spec(config)
    _check_destination(source, out, _holds_dataset(out), config.overwrite)
    with _partial_folder(out) as partial:
        dataset = partial / "dataset"
        root, images, rejected, listed_warnings = _gather(source, spec, partial, config)
        found = _audit(images, root, partial / "cache", config)
        groups, audit = _groups(images, found), found.to_dict()
        # Before copies are dropped: one given to test and one to train is a leak, not a duplicate.
        check_given_splits(
            [groups[image.record.file] for image in images],
            [image.record.split for image in images],
            [image.record.file for image in images],
        )
        kept, dropped = _resolve_duplicates(images, config.conflicts, config.duplicates)
        rejected = sorted([*rejected, *dropped], key=lambda r: (r.file, r.reason))
        rows = _rows(kept, groups, _splits(kept, groups, config))
        warnings = [
            *listed_warnings,
            *_source_warnings(images, config),
            *_audit_warnings(found),
            *_split_warnings(rows, config),
        ]
        warnings += _noise_warnings(rows, spec)
        for text in warnings:
            _LOG.warning("%s", text)

        digest = fingerprint(rows, spec.to_json(), config.class_names)
        _write_dataset(dataset, rows, kept, spec, digest, partial / "cache", config)
        quality = _denoising(kept)
        write_manifest(dataset / "manifest.csv", rows)
        write_quarantine(dataset / "quarantine.csv", rejected)
        write_json(dataset / "audit.json", {**audit, "warnings": warnings})
        if quality:
            write_json(dataset / "denoising.json", quality)
        keys = {image.record.file: image.prepared.key for image in kept}
        write_report(
            dataset / "report.html",
            rows=rows,
            rejected=rejected,
            class_names=list(config.class_names),
            spec=spec,
            fingerprint=digest,
            audit=audit,
            warnings=warnings,
            denoising=quality["mean"] if quality else None,
            load_image=lambda row: load_image(partial / "cache", keys[row.file]),
        )
        if str(source) == PHANTOM:
            root.rename(dataset / PHANTOM)
        _publish(dataset, out, partial)
    counts = Counter(row.split for row in rows)
    images_by_split = {name: counts[name] for name in SPLITS if counts[name]}
    shown = ", ".join(f"{name} {count}" for name, count in images_by_split.items())
    _LOG.info("wrote %s: %s images; %d files left out (quarantine.csv)", out, shown, len(rejected))
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
    out = Path(out)
    spec = dataclasses.replace(preprocess_spec(config), denoise_backend="none")
    ours = (out / "audit.json").is_file() and not _holds_dataset(out)
    _check_destination(source, out, ours, config.overwrite)
    with _partial_folder(out) as partial:
        result = partial / "dataset"
        result.mkdir()
        root, images, rejected, listed_warnings = _gather(source, spec, partial, config)
        audited = _audit(images, root, partial / "cache", config)
        rows = _rows(images, _groups(images, audited), [""] * len(images))
        warnings = [*listed_warnings, *_source_warnings(images, config), *_audit_warnings(audited)]
        found = {**audited.to_dict(), "warnings": warnings}
        write_manifest(result / "manifest.csv", rows)
        write_quarantine(result / "quarantine.csv", rejected)
        write_json(result / "audit.json", found)
        _publish(result, out, partial)
    _LOG.info(
        "audited %d images: %d pictures in several files, %d of them under contradictory labels; %d pairs of "
        "near copies; %d files unusable",
        len(images),
        len(found["exact_duplicates"]),
        len(found["conflicts"]),
        len(found["near_duplicates"]),
        len(rejected),
    )
    return found


def preprocess_spec(config: ConfigDict) -> PreprocessSpec:
    """The part of a preparation's config that determines the pixels."""
    return PreprocessSpec(
        denoise_backend=config.denoise.backend,
        denoise_profile=config.denoise.profile,
        sigma=config.denoise.sigma,
        noise_model=config.denoise.noise_model,
        image_size=config.image_size,
        aspect=config.aspect,
    )


def _holds_dataset(out: Path) -> bool:
    return (out / "dataset_info.json").is_file()


def _check_destination(source: str | Path, out: Path, ours: bool, overwrite: bool) -> None:
    """Raises UserError unless `out` is free, or is the same command's earlier work and may be overwritten."""
    here = out.resolve()
    if str(source) != PHANTOM:
        there = Path(source).resolve()
        there = there.parent if there.is_file() else there
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise UserError(f"--out {out} and --source {source} lie in each other; choose a folder apart")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not ours:
        raise UserError(f"{out} exists and was not written by this command; give another --out")
    if not overwrite:
        raise UserError(f"{out} is finished; give another --out, or --config.overwrite=True to replace it")


@contextmanager
def _partial_folder(out: Path) -> Iterator[Path]:
    """The folder in which one run at a time works; kept when the run fails, removed when it succeeds."""
    partial = out.parent / (out.name + ".partial")
    try:
        (partial / "cache").mkdir(parents=True, exist_ok=True)
        lock = (partial / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {out.parent}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is preparing {out} (it holds {partial}/lock)") from None
        for leftover in ("dataset", "dataset.tfds"):
            shutil.rmtree(partial / leftover, ignore_errors=True)
        try:
            yield partial
        except BaseException:
            if not any((partial / "cache").iterdir()) and not (partial / "quarantine.csv").exists():
                shutil.rmtree(partial)  # it failed before anything was worth keeping
            raise
        shutil.rmtree(partial)


def _publish(dataset: Path, out: Path, partial: Path) -> None:
    if out.exists():
        out.rename(partial / "replaced")
    dataset.rename(out)


def _gather(
    source: str | Path, spec: PreprocessSpec, partial: Path, config: ConfigDict
) -> tuple[Path, list[_Image], list[Rejected], tuple[str, ...]]:
    """The source's folder, its images after their tasks, what cannot be used (both sorted by file), and warnings."""
    listed, clean = _read(source, partial, config)
    images, rejected = _process(listed, clean, spec, partial / "cache", config)
    total = len(listed.records) + len(listed.rejected)
    _check_quarantine(rejected, total, partial, config.quarantine.max_fraction)
    return listed.root, images, rejected, listed.warnings


def _read(source: str | Path, partial: Path, config: ConfigDict) -> tuple[Source, Mapping[str, Path]]:
    """The source's records, and for a phantom the clean image of each file."""
    if str(source) != PHANTOM:
        return read_source(source, config.class_names, config.class_aliases), {}
    root = _phantom(partial, config)
    listed = read_source(root, config.class_names, config.class_aliases)
    clean = {r.file: root / "clean" / Path(r.file).name for r in listed.records}
    return listed, clean


def _phantom(partial: Path, config: ConfigDict) -> Path:
    """Generates the phantom, or takes the one that a killed run with the same config had finished."""
    from data_prep.phantom import PhantomConfig, write_phantom

    fields = {f.name for f in dataclasses.fields(PhantomConfig)} - {"workers"}
    if unknown := set(config.phantom) - fields:
        raise UserError(
            f"config.phantom has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(fields))}"
        )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.phantom.items()}
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:12]
    root = partial / f"phantom-{digest}"
    if not root.exists():
        _LOG.info("generating the phantom")
        write_phantom(root, PhantomConfig(**values, workers=max(1, _workers(config))))
    return root


def _workers(config: ConfigDict) -> int:
    if config.workers < 0:
        return available_cores()
    return config.workers


def _process(
    listed: Source, clean: Mapping[str, Path], spec: PreprocessSpec, cache: Path, config: ConfigDict
) -> tuple[list[_Image], list[Rejected]]:
    """Runs the task of every record; the result does not depend on the number of workers."""
    limits = Limits(**config.limits)
    tasks = [ImageTask(listed.root / r.file, clean.get(r.file), spec, limits, cache) for r in listed.records]
    results: list[Prepared | Failed | None] = [None] * len(tasks)
    failures, total = len(listed.rejected), len(tasks) + len(listed.rejected)
    # An accelerator is held by one process: the JAX backend stays in this one.
    workers = 0 if spec.denoise_backend == "jax" else min(_workers(config), len(tasks))
    with progress("preparing images", len(tasks)) as advance:
        for index, result in run_tasks(prepare_image, tasks, workers):
            if isinstance(result, WorkerDied):
                result = Failed("the worker process died on it (crash or out of memory)")
            results[index] = result
            failures += isinstance(result, Failed)
            advance()
            if failures > config.quarantine.max_fraction * total:
                break
    found = [
        (record, result)
        for record, result in zip(listed.records, results, strict=True)
        if isinstance(result, Prepared)
    ]
    failed = [
        Rejected(record.file, result.reason)
        for record, result in zip(listed.records, results, strict=True)
        if isinstance(result, Failed)
    ]
    patients = assign_patients(
        [record.file for record, _ in found],
        [record.patient_id for record, _ in found],
        [result.patient for _, result in found],
    )
    images = [_Image(record, result, patients[record.file]) for record, result in found]
    return images, sorted([*listed.rejected, *failed], key=lambda r: (r.file, r.reason))


def _check_quarantine(rejected: Sequence[Rejected], total: int, partial: Path, max_fraction: float) -> None:
    if len(rejected) > max_fraction * total:
        listing = partial / "quarantine.csv"
        write_quarantine(listing, rejected)
        examples = "; ".join(f"{r.file}: {r.reason}" for r in rejected[:3])
        raise UserError(
            f"stopped: {len(rejected)} of {total} files so far cannot be used ({examples}); "
            f"quarantine.max_fraction={max_fraction:g} allows fewer. They are listed in {listing}: mend them or raise "
            "the limit"
        )
    if len(rejected) == total:
        raise UserError("no image is left to prepare")


def _audit(images: Sequence[_Image], root: Path, cache: Path, config: ConfigDict) -> Audit:
    """Copies, contradictions and shortcuts; near duplicates are sought on the prepared images."""
    _LOG.info("auditing %d images", len(images))
    records = [
        AuditRecord(
            file=image.record.file,
            label=image.record.label,
            patient_id=image.patient_id,
            sha256=image.prepared.sha256,
            n_bytes=(root / image.record.file).stat().st_size,
            width=image.prepared.width,
            height=image.prepared.height,
            bits=image.prepared.bits,
            sigma=image.prepared.sigma,
            metadata={**image.prepared.metadata, **image.record.metadata},
        )
        for image in images
    ]
    return audit_records(
        records,
        lambda index: load_image(cache, images[index].prepared.key)[..., 0],
        near_duplicates=config.audit.near_duplicates,
        shortcuts=config.audit.shortcuts,
        seed=config.seed,
    )


def _groups(images: Sequence[_Image], found: Audit) -> dict[str, str]:
    """File -> group, named after its first patient: shared patients, identical pixels and near copies join."""
    return {image.record.file: name for image, name in zip(images, found.groups, strict=True)}


def _by_content(images: Sequence[_Image]) -> list[list[_Image]]:
    """Images with identical pixels, each list and the list of lists sorted by file."""
    same = defaultdict(list)
    for image in images:
        same[image.prepared.sha256].append(image)
    return [group for group in same.values() if len(group) > 1]


def _resolve_duplicates(
    images: Sequence[_Image], conflicts: str, duplicates: str
) -> tuple[list[_Image], list[Rejected]]:
    """Applies the policies: contradictory truth is neither learned nor scored, nothing is counted twice."""
    for name, value, choices in (
        ("conflicts", conflicts, ("quarantine", "keep")),
        ("duplicates", duplicates, ("drop", "keep")),
    ):
        if value not in choices:
            raise UserError(f"{name} is {value!r}; choose {' or '.join(choices)}")
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


def _splits(kept: Sequence[_Image], groups: Mapping[str, str], config: ConfigDict) -> list[str]:
    files = [image.record.file for image in kept]
    return assign_splits(
        [image.record.label for image in kept],
        [groups[file] for file in files],
        {name: config.split[name] for name in SPLITS},
        seed=config.seed,
        given=[image.record.split for image in kept],
        files=files,
    )


def _rows(images: Sequence[_Image], groups: Mapping[str, str], splits: Sequence[str]) -> list[Row]:
    copies: Counter[str] = Counter()
    rows = []
    for image, split in zip(images, splits, strict=True):
        done = image.prepared
        copies[done.sha256] += 1
        suffix = f"-{copies[done.sha256]}" if copies[done.sha256] > 1 else ""
        rows.append(
            Row(
                file=image.record.file,
                label=image.record.label,
                patient_id=image.patient_id,
                group=groups[image.record.file],
                split=split,
                id=done.sha256[:16] + suffix,
                sha256=done.sha256,
                width=done.width,
                height=done.height,
                bits=done.bits,
                sigma=done.sigma,
                noise_warnings=done.warnings,
                notes=done.notes,
                metadata={**done.metadata, **image.record.metadata},
            )
        )
    return rows


def _source_warnings(images: Sequence[_Image], config: ConfigDict) -> list[str]:
    """What a reader of any result on this source must know."""
    warnings = patient_warnings({image.record.file: image.patient_id for image in images})
    from_header = sum(i.record.patient_id is None and i.patient_id != i.record.file for i in images)
    if from_header:
        warnings.append(f"the patients of {from_header} images are taken from the DICOM PatientID")
    anonymous = sum(i.record.patient_id is None and i.prepared.anonymous for i in images)
    if anonymous:
        warnings.append(
            f"the DICOM PatientID of {anonymous} images stands for anybody (such as ANONYMOUS): it was not used"
        )
    labels = {image.record.label for image in images}
    return warnings + [f"class {name} has no image" for name in config.class_names if name not in labels]


def _audit_warnings(found: Audit) -> list[str]:
    """Near copies under several labels, and cues that predict the label without looking at the bone."""
    warnings = []
    if found.near_conflicts:
        images = sum(len(group) for group in found.near_conflicts)
        warnings.append(
            f"{images} of {len(found.records)} images are near copies of one with another label, in "
            f"{len(found.near_conflicts)} groups (audit.json, near_conflicts)"
        )
    for cue in found.shortcuts:
        if cue["predicts"]:
            best = max(cue["balanced_accuracy"].values(), key=lambda score: score["ci95"][0])
            warnings.append(
                f"{cue['cue']} alone predicts the label: balanced accuracy {best['value']:.2f} "
                f"[{best['ci95'][0]:.2f}, {best['ci95'][1]:.2f}], chance {cue['chance']:.2f}"
            )
    return warnings


def _split_warnings(rows: Sequence[Row], config: ConfigDict) -> list[str]:
    """Splits that lack a class; a class that cannot be trained on stops the run."""
    warnings = []
    labels, splits = [row.label for row in rows], [row.split for row in rows]
    for split, classes in missing_classes(labels, splits).items():
        text = f"split {split} has no image of {', '.join(classes)}: too few patients"
        if split == "train":
            raise UserError(f"{text}; nothing could be learned of it. Add images or remove the class")
        warnings.append(text)
    for name in SPLITS:
        if config.split[name] > 0 and name not in splits:
            warnings.append(f"split {name} is empty: too few patients")
    return warnings


def _noise_warnings(rows: Sequence[Row], spec: PreprocessSpec) -> list[str]:
    """Whether the denoiser was steered by estimates that should not be believed."""
    if spec.denoise_backend == "none" or spec.sigma is not None:
        return []
    doubtful = sum(bool(row.noise_warnings) for row in rows)
    if not doubtful:
        return []
    return [
        f"the noise of {doubtful} of {len(rows)} images is clipped, correlated or hardly measurable (manifest.csv "
        "says which): their estimated sigma is no measure of it; denoise.sigma gives one"
    ]


def _write_dataset(
    dataset: Path,
    rows: Sequence[Row],
    kept: Sequence[_Image],
    spec: PreprocessSpec,
    digest: str,
    cache: Path,
    config: ConfigDict,
) -> None:
    keys = {row.id: image.prepared.key for row, image in zip(rows, kept, strict=True)}
    splits: dict[str, list[Example]] = {}
    for name in SPLITS:
        examples = [
            Example(row.id, row.file, row.label, row.patient_id, row.group, row.metadata)
            for row in rows
            if row.split == name
        ]
        if examples:
            splits[name] = examples
    write_shards(
        dataset,
        splits,
        lambda example: load_image(cache, keys[example.id]),
        image_size=spec.image_size,
        class_names=list(config.class_names),
        description={
            "preprocessing": spec.to_dict(),
            "class_names": list(config.class_names),
            "fingerprint": digest,
            "split": {**config.split.to_dict(), "seed": config.seed},
        },
    )


def _denoising(kept: Sequence[_Image]) -> dict[str, Any] | None:
    """PSNR and SSIM of each image against its clean original and their means; None without originals."""
    measured = {i.record.file: i.prepared.quality for i in kept if i.prepared.quality}
    if not measured:
        return None
    names = next(iter(measured.values()))
    mean = {name: sum(q[name] for q in measured.values()) / len(measured) for name in names}
    return {"images": len(measured), "mean": mean, "per_image": measured}
