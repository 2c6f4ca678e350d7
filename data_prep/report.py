"""`report.html`: what was prepared, on one self-contained page. File names are untrusted and escaped."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.manifest import Row
from data_prep.preprocess import PreprocessSpec
from data_prep.source import Rejected, in_order
from osteojax import leaky, page
from osteojax.files import write_atomically

_THUMBNAILS_PER_CLASS = 4
_THUMBNAIL_SIDE = 160
_QUARANTINE_SHOWN = 200
_SECTIONS = {
    "splits": "Splits",
    "preprocessing": "Preprocessing",
    "copies": "Copies",
    "shortcuts": "Shortcuts",
    "examples": "Examples",
    "left-out": "Left out",
}


def write_report(
    path: Path,
    *,
    rows: Sequence[Row],
    rejected: Sequence[Rejected],
    class_names: Sequence[str],
    spec: PreprocessSpec,
    fingerprint: str,
    audit: Mapping[str, Any],
    warnings: Sequence[str],
    denoising: Mapping[str, float] | None,
    load_image: Callable[[Row], np.ndarray],
    dealing: Mapping[str, Any],
    mark: leaky.Mark | None,
) -> None:
    """Writes the page; `load_image` gives the prepared image of a row for its thumbnail, `dealing` are the settings of
    `split.*` that are not those by default."""
    lead = page.paragraph(
        page.Html(
            f"{len(rows)} images of {len({r.patient_id for r in rows})} patients, {len(rejected)} files left "
            f"out. Fingerprint <code>{escape(fingerprint)}</code>"
        )
    )
    body = [
        *(page.note(text) for text in warnings),
        page.section("splits", "Splits", _dealing(dealing), _split_table(rows, class_names)),
        page.section(
            "preprocessing",
            "Preprocessing",
            f"<p><code>{escape(spec.to_json())}</code></p>",
            _noise_table(rows, denoising),
        ),
        page.section("copies", "Copies", _duplicates(audit), _near_duplicates(audit)),
        page.section("shortcuts", "Shortcuts", _shortcuts(audit)),
        page.section("examples", "Examples", *(_thumbnails(rows, name, load_image) for name in class_names)),
        page.section("left-out", "Left out", _quarantine(rejected)),
    ]
    write_atomically(
        path, page.document("Prepared radiographs", body, sections=_SECTIONS, lead=lead, mark=mark)
    )


def _dealing(dealing: Mapping[str, Any]) -> str:
    said = (
        ", ".join(f"split.{key}={value}" for key, value in dealing.items())
        or "by patient, stratified by class"
    )
    return page.paragraph(f"How the images were dealt: {said}.")


def _split_table(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    counts = Counter((row.split, row.label) for row in rows)
    body = []
    for split in in_order(row.split for row in rows):
        mine = [row for row in rows if row.split == split]
        images = [counts[split, name] for name in class_names]
        body.append(
            [split, *images, len(mine), len({r.patient_id for r in mine}), len({r.group for r in mine})]
        )
    return page.table(
        ["split", *class_names, "images", "patients", "groups"], body, "Images by split and class"
    )


def _noise_table(rows: Sequence[Row], denoising: Mapping[str, float] | None) -> str:
    sigma = np.array([row.sigma for row in rows])
    low, middle, high = np.percentile(sigma, (5, 50, 95))
    codes = Counter(code for row in rows for code in row.noise_warnings)
    lines: list[tuple[str, object]] = [
        ("estimated sigma, 5th / 50th / 95th percentile", f"{low:.2f} / {middle:.2f} / {high:.2f}")
    ]
    lines += [(f"images with warning {code}", count) for code, count in sorted(codes.items())]
    if denoising:
        lines += [
            (
                f"{label} before and after denoising, against the clean image",
                f"{denoising[f'{name}_before']:{form}} / {denoising[f'{name}_after']:{form}}",
            )
            for name, label, form in (("psnr", "mean PSNR in dB", ".2f"), ("ssim", "mean SSIM", ".3f"))
        ]
    return page.table(["noise, in grey levels of 255", "value"], lines, "Noise")


def _duplicates(audit: Mapping[str, Any]) -> str:
    if not audit["exact_duplicates"]:
        return "<p>No two files hold the same pixels.</p>"
    body = [
        [", ".join(i["file"] for i in group), ", ".join(sorted({i["label"] for i in group}))]
        for group in audit["exact_duplicates"][:_QUARANTINE_SHOWN]
    ]
    text = f"<p>{len(audit['exact_duplicates'])} pictures in several files, {len(audit['conflicts'])} under "
    return (
        text + "contradictory labels.</p>" + page.table(["files", "labels"], body, "Equal pixels", words=True)
    )


def _near_duplicates(audit: Mapping[str, Any]) -> str:
    pairs = audit["near_duplicates"]
    if not pairs:
        return ""
    body = [
        [
            f"{pair['part']} ({pair['labels'][0]})",
            f"{pair['whole']} ({pair['labels'][1]})",
            f"{pair['correlation']:.3f}{', mirrored' if pair['mirrored'] else ''}",
        ]
        for pair in pairs[:_QUARANTINE_SHOWN]
    ]
    text = f"<p>{len(pairs)} pairs are crops, mirror images or re-encodings of each other and stay on one side of the "
    text += f"split; {len(audit['near_conflicts'])} groups of them carry contradictory labels.</p>"
    return text + page.table(["image", "copy of", "correlation"], body, "Near copies", words=True)


def _shortcuts(audit: Mapping[str, Any]) -> str:
    if not audit["shortcuts"]:
        return "<p>Not looked for.</p>"
    body = []
    for cue in audit["shortcuts"]:
        for model, score in cue["balanced_accuracy"].items():
            low, high = score["ci95"]
            mark = "predicts the label" if low > cue["chance"] else ""
            body.append(
                [
                    cue["cue"],
                    model,
                    f"{score['value']:.2f} [{low:.2f}, {high:.2f}]",
                    f"{cue['chance']:.2f}",
                    mark,
                ]
            )
    text = "<p>What properties that have nothing to do with the bone score by themselves, cross-validated by group. "
    text += "A network has to beat them before its accuracy means anything.</p>"
    return text + page.table(
        ["cue", "classifier", "balanced accuracy [95 %]", "chance", "verdict"], body, "Shortcuts", words=True
    )


def _thumbnails(rows: Sequence[Row], name: str, load_image: Callable[[Row], np.ndarray]) -> str:
    mine = [row for row in rows if row.label == name]
    step = max(1, len(mine) // _THUMBNAILS_PER_CLASS)
    shown = mine[::step][:_THUMBNAILS_PER_CLASS]
    figures = "".join(
        f'<figure><img src="{_data_uri(load_image(row))}" alt="prepared radiograph, {escape(name)}">'
        f"<figcaption>{escape(row.file)}, "
        f"{escape(row.split)}</figcaption></figure>"
        for row in shown
    )
    return f'<h3>{escape(name)}</h3><div class="gallery">{figures}</div>'


def _data_uri(image: np.ndarray) -> str:
    small = Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8))
    small = small.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _quarantine(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return "<p>Nothing.</p>"
    more = len(rejected) - _QUARANTINE_SHOWN
    note = f"<p>and {more} more in quarantine.csv</p>" if more > 0 else ""
    body = [(r.file, r.reason) for r in rejected[:_QUARANTINE_SHOWN]]
    return page.table(["file", "reason"], body, "Files left out", words=True) + note
