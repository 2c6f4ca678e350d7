"""What a reader of any result on a dataset must know, one sentence each."""

import itertools
import re
from collections.abc import Sequence

from data_prep.audit.audit import Audit
from data_prep.denoise.rule import LEFT_ALONE
from data_prep.manifest import Row
from data_prep.patients import patient_warnings
from data_prep.prepared import PreparedImage
from data_prep.settings import PrepareSettings
from data_prep.split import missing_classes
from osteojax import folds
from osteojax.errors import UserError

# A UID, a DICOM person name, a date: what files of an archive are called after.
_IDENTIFYING = re.compile(r"\d+(\.\d+){5,}|[^\W\d_]{2,}\^[^\W\d_]{2,}|(?<!\d)(19|20)\d\d[01]\d[0-3]\d(?!\d)")


def source_warnings(images: Sequence[PreparedImage], settings: PrepareSettings) -> list[str]:
    """Of patients, classes and names."""
    warnings = patient_warnings(
        {image.record.file: image.patient_id for image in images},
        {image.record.file: image.record.patient_id for image in images if image.record.patient_id},
    )
    from_header = sum(i.record.patient_id is None and i.patient_id != i.record.file for i in images)
    if from_header:
        warnings.append(f"the patients of {from_header} images are taken from the DICOM PatientID")
    anonymous = sum(i.record.patient_id is None and i.prepared.anonymous for i in images)
    if anonymous:
        warnings.append(
            f"the DICOM PatientID of {anonymous} images stands for anybody (such as ANONYMOUS): it was not used"
        )
    telling = sum(bool(_IDENTIFYING.search(image.record.file)) for image in images)
    if telling and settings.privacy.file_names == "keep":
        warnings.append(
            f"the names of {telling} files look like UIDs, person names or dates and stand in manifest, shards and "
            "report; --config.privacy.file_names=hash leaves them out"
        )
    written = sum(image.prepared.written for image in images)
    if written:
        done = {
            "mask": "what was found is masked, what was not found is there",
            "flag": "it may name people; --config.privacy.burned_in=mask or quarantine takes it out",
        }
        warnings.append(
            f"{written} images seem to have writing burned into the picture (notes of manifest.csv): "
            f"{done[settings.privacy.burned_in]}"
        )
    labels = {image.record.label for image in images}
    return warnings + [f"class {name} has no image" for name in settings.class_names if name not in labels]


def audit_warnings(found: Audit) -> list[str]:
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


def split_warnings(rows: Sequence[Row], settings: PrepareSettings) -> list[str]:
    """Splits that lack a class.

    Raises:
        UserError: training lacks one: nothing could be learned of it.
    """
    warnings = []
    labels, splits = [row.label for row in rows], [row.split for row in rows]
    for split, classes in missing_classes(labels, splits).items():
        text = f"split {split} has no image of {', '.join(classes)}: too few patients"
        if split == "train":
            raise UserError(f"{text}; nothing could be learned of it. Add images or remove the class")
        warnings.append(text)
    deals = [splits, *zip(*(row.repeats for row in rows), strict=True)]
    for fold, deal in itertools.product(range(settings.split.folds), deals):
        learning = set(folds.parts(fold, settings.split.folds)["train"])
        learned = {label for label, split in zip(labels, deal, strict=True) if split in learning}
        if lacking := sorted(set(labels) - learned):
            raise UserError(
                f"where {folds.fold_name(fold)} is tested, training has no image of {', '.join(lacking)}: too few "
                "patients for so many folds. Add images, take fewer folds, or remove the class"
            )
    for name in settings.fractions:
        if settings.fractions[name] > 0 and name not in splits:
            warnings.append(f"split {name} is empty: too few patients")
    return warnings


def noise_warnings(rows: Sequence[Row], settings: PrepareSettings) -> list[str]:
    """Whether the denoiser took what may be bone, and which images it was kept off."""
    denoise = settings.denoise
    if settings.spec.denoise.name == "none":
        return []
    if denoise.sigma is not None:
        quieter = sum(row.denoising == "given" and row.sigma < denoise.sigma / 2 for row in rows)
        return (
            [
                f"denoise.sigma={denoise.sigma:g} is more than twice the estimated noise of {quieter} of {len(rows)} "
                "images (sigma of manifest.csv): what exceeds the noise that is there takes trabeculae away and makes "
                "bone waxy (docs/real_films.md)"
            ]
            if quieter
            else []
        )
    doubtful = sum(row.denoising == "always" and bool(row.noise_warnings) for row in rows)
    unknown = sum(row.denoising in LEFT_ALONE and row.denoising != "left_faint" for row in rows)
    warnings = []
    if doubtful:
        warnings.append(
            f"the noise of {doubtful} of {len(rows)} images is clipped, correlated or hardly measurable (manifest.csv "
            "says which): their estimated sigma is no measure of it and steered the denoiser all the same; "
            "denoise.when=known denoises only noise that is known"
        )
    if unknown:
        warnings.append(
            f"the noise of {unknown} of {len(rows)} images cannot be told from their texture: they were not denoised "
            "(denoising of manifest.csv; docs/real_films.md)"
        )
    return warnings
