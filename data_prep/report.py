"""`report.html`: what was prepared, on one self-contained page. File names are untrusted and escaped."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.manifest import Row
from data_prep.preprocess import PreprocessSpec
from data_prep.source import Rejected, in_order
from osteojax.files import write_atomically

_THUMBNAILS_PER_CLASS = 4
_THUMBNAIL_SIDE = 160
_QUARANTINE_SHOWN = 200
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } th, td { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 1px solid #888 }
figure { display: inline-block; margin: .3rem } figcaption { font-size: 11px; max-width: 160px; color: #555;
overflow-wrap: anywhere } .warning { background: #fff3cd; padding: .4rem .8rem; margin: .3rem 0 }
code { overflow-wrap: anywhere } td.text { text-align: left; overflow-wrap: anywhere }
"""


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
) -> None:
    """Writes the page; `load_image` gives the prepared image of a row for its thumbnail."""
    parts = [
        "<h1>Prepared radiographs</h1>",
        f"<p>{len(rows)} images of {len({r.patient_id for r in rows})} patients, {len(rejected)} files left "
        f"out. Fingerprint <code>{escape(fingerprint)}</code></p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings),
        "<h2>Splits</h2>",
        _split_table(rows, class_names),
        "<h2>Preprocessing</h2>",
        f"<p><code>{escape(spec.to_json())}</code></p>",
        _noise_table(rows, denoising),
        "<h2>Copies</h2>",
        _duplicates(audit),
        _near_duplicates(audit),
        "<h2>Shortcuts</h2>",
        _shortcuts(audit),
        "<h2>Examples</h2>",
        *(_thumbnails(rows, name, load_image) for name in class_names),
        "<h2>Left out</h2>",
        _quarantine(rejected),
    ]
    head = f'<meta charset="utf-8"><title>Prepared radiographs</title><style>{_STYLE}</style>'
    page = f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"
    write_atomically(path, page)


def _table(head: Sequence[str], body: Iterable[Sequence[object]], cell: str = "<td>") -> str:
    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"{cell}{escape(str(v))}</td>" for v in line) + "</tr>" for line in body)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def _split_table(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    counts = Counter((row.split, row.label) for row in rows)
    body = []
    for split in in_order(row.split for row in rows):
        mine = [row for row in rows if row.split == split]
        images = [counts[split, name] for name in class_names]
        body.append(
            [split, *images, len(mine), len({r.patient_id for r in mine}), len({r.group for r in mine})]
        )
    return _table(["split", *class_names, "images", "patients", "groups"], body)


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
    return _table(["noise, in grey levels of 255", ""], lines)


def _duplicates(audit: Mapping[str, Any]) -> str:
    if not audit["exact_duplicates"]:
        return "<p>No two files hold the same pixels.</p>"
    body = [
        [", ".join(i["file"] for i in group), ", ".join(sorted({i["label"] for i in group}))]
        for group in audit["exact_duplicates"][:_QUARANTINE_SHOWN]
    ]
    text = f"<p>{len(audit['exact_duplicates'])} pictures in several files, {len(audit['conflicts'])} under "
    return text + "contradictory labels.</p>" + _table(["files", "labels"], body, '<td class="text">')


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
    return text + _table(["image", "copy of", "correlation"], body, '<td class="text">')


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
    return text + _table(["cue", "classifier", "balanced accuracy [95 %]", "chance", ""], body)


def _thumbnails(rows: Sequence[Row], name: str, load_image: Callable[[Row], np.ndarray]) -> str:
    mine = [row for row in rows if row.label == name]
    step = max(1, len(mine) // _THUMBNAILS_PER_CLASS)
    shown = mine[::step][:_THUMBNAILS_PER_CLASS]
    figures = "".join(
        f'<figure><img src="{_data_uri(load_image(row))}" alt=""><figcaption>{escape(row.file)}, '
        f"{escape(row.split)}</figcaption></figure>"
        for row in shown
    )
    return f"<h3>{escape(name)}</h3>{figures}"


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
    return _table(["file", "reason"], body, '<td class="text">') + note
