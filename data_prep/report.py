"""`report.html`: what was prepared, on one self-contained page. File names are untrusted and escaped."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import pictures
from data_prep.denoise.rule import LEFT_ALONE
from data_prep.manifest import Row, counts_by_split
from data_prep.preprocess import PreprocessSpec
from data_prep.source import Rejected, in_order
from osteojax import leaky, page
from osteojax.files import write_atomically

_THUMBNAILS_PER_CLASS = 4
_QUARANTINE_SHOWN = 200
_PAIRS_PICTURED = 12
_DENOISED_PICTURED = 3
_LEVELS_SHOWN = 12
_DENOISING = {
    "none": "no denoiser",
    "white": "denoised, white noise of the estimated sigma",
    "coloured": "denoised, coloured noise of the estimated spectrum",
    "poisson": "denoised, Poisson noise fitted to the image",
    "given": "denoised with the given sigma",
    "always": "denoised with the estimated sigma, whatever it is worth",
    **{name: f"left alone, {why}" for name, why in LEFT_ALONE.items()},
}
_SECTIONS = {
    "splits": "Splits",
    "preprocessing": "Preprocessing",
    "denoising": "Denoising",
    "copies": "Copies",
    "shortcuts": "Shortcuts",
    "examples": "Examples",
    "left-out": "Left out",
    "config": "Config",
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
    load_image: pictures.Load,
    load_noisy: Callable[[Row], np.ndarray | None],
    config: Mapping[str, Any],
    dealing: Mapping[str, Any],
    mark: leaky.Mark | None,
) -> None:
    """Writes the page.

    Args:
        load_image: the prepared image of a row, (size, size, 1) in [0, 1].
        load_noisy: the same without denoising; None where the file cannot be had any more.
        config: all that the preparation was told, nested as its file is.
        dealing: the settings of `split.*` that are not those by default.

    The others are as in `Plan`.
    """
    lead = page.paragraph(
        page.Html(
            f"{len(rows)} images of {len({r.patient_id for r in rows})} patients, {len(rejected)} files left "
            f"out. Fingerprint <code>{escape(fingerprint)}</code>"
        )
    )
    body = [
        *(page.note(text) for text in warnings),
        page.section("splits", "Splits", _dealing(dealing), _split_table(rows, class_names), _levels(rows)),
        page.section(
            "preprocessing",
            "Preprocessing",
            f"<p><code>{escape(spec.to_json())}</code></p>",
            _noise_table(rows, denoising),
            _regions(rows),
        ),
        page.section("denoising", "Denoising", _denoising(rows, spec, load_image, load_noisy)),
        page.section(
            "copies", "Copies", _duplicates(audit), _near_duplicates(audit), _pairs(audit, rows, load_image)
        ),
        page.section("shortcuts", "Shortcuts", _shortcuts(audit)),
        page.section("examples", "Examples", *(_thumbnails(rows, name, load_image) for name in class_names)),
        page.section("left-out", "Left out", _kinds(rejected), _quarantine(rejected)),
        page.section(
            "config", "Config", page.table(["key", "value"], _leaves(config), "All of it", words=True)
        ),
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
    body = [
        [split, *images, len(mine), len({r.patient_id for r in mine}), len({r.group for r in mine})]
        for split, images, mine in counts_by_split(rows, class_names)
    ]
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
    done = Counter(row.denoising for row in rows)
    lines += [(f"images: {_DENOISING[name]}", done[name]) for name in _DENOISING if done[name]]
    if denoising:
        lines += [
            (
                f"{label} before and after denoising, against the clean image",
                f"{denoising[f'{name}_before']:{form}} / {denoising[f'{name}_after']:{form}}",
            )
            for name, label, form in (("psnr", "mean PSNR in dB", ".2f"), ("ssim", "mean SSIM", ".3f"))
        ]
    return page.table(["noise, in grey levels of 255", "value"], lines, "Noise")


def _regions(rows: Sequence[Row]) -> str:
    """How many joints were found, and why the others were not; nothing where they were not looked for."""
    counts = Counter(row.region for row in rows if row.region)
    if not counts:
        return ""
    return page.table(
        ["region of interest", "images"], counts.most_common(), "Region of interest", words=True
    )


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


def _pairs(audit: Mapping[str, Any], rows: Sequence[Row], load_image: pictures.Load) -> str:
    """The first pairs side by side and laid upon each other; contradictory ones before the others."""
    of_file = {row.file: row for row in rows}
    ordered = sorted(audit["near_duplicates"], key=lambda pair: pair["labels"][0] == pair["labels"][1])
    shown = (pictures.copies(pair, of_file, load_image) for pair in ordered)
    return "".join(itertools.islice(filter(None, shown), _PAIRS_PICTURED))


def _denoising(
    rows: Sequence[Row],
    spec: PreprocessSpec,
    load_image: pictures.Load,
    load_noisy: Callable[[Row], np.ndarray | None],
) -> str:
    """The images with the least, the middle and the most estimated noise, before and after."""
    if spec.denoise.name == "none":
        return "<p>Nothing is denoised.</p>"
    by_noise = sorted(rows, key=lambda row: row.sigma)
    few = np.linspace(0, len(rows) - 1, min(len(rows), _DENOISED_PICTURED)).round().astype(int)
    shown = []
    for row in (by_noise[place] for place in few):
        before = load_noisy(row)
        if before is not None:
            shown.append(
                f"<h3>estimated sigma {row.sigma:.2f}</h3>{pictures.denoising(row, before, load_image(row))}"
            )
    return "".join(shown)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of everything in a nested config, in the order of the keys."""
    for key, value in sorted(config.items()):
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _kinds(rejected: Sequence[Rejected]) -> str:
    """How many files were left out for which kind of reason: what a reason says before it names numbers or names."""
    of_kind: dict[str, list[str]] = {}
    for row in rejected:
        of_kind.setdefault(re.split(r"[:(\d\"']", row.reason)[0].strip() or row.reason, []).append(row.file)
    body = [
        [kind, len(files), files[0]]
        for kind, files in sorted(of_kind.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return page.table(["reason", "files", "such as"], body, "By kind", words=True) if body else ""


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


def _thumbnails(rows: Sequence[Row], name: str, load_image: pictures.Load) -> str:
    mine = [row for row in rows if row.label == name]
    step = max(1, len(mine) // _THUMBNAILS_PER_CLASS)
    shown = mine[::step][:_THUMBNAILS_PER_CLASS]
    figures = [
        pictures.figure(load_image(row)[..., 0], f"prepared radiograph, {name}", f"{row.file}, {row.split}")
        for row in shown
    ]
    return f"<h3>{escape(name)}</h3>{pictures.gallery(figures)}"


def _levels(rows: Sequence[Row]) -> str:
    """Images by split and level, of each column that has few of them: site, sex, manufacturer, ..."""
    splits = in_order(row.split for row in rows)
    tables = []
    for column in sorted({name for row in rows for name in row.metadata}):
        levels = Counter((row.metadata.get(column, "") or "unknown", row.split) for row in rows)
        names = sorted({level for level, _ in levels})
        if 1 < len(names) <= _LEVELS_SHOWN:
            body = [[level, *(levels[level, split] for split in splits)] for level in names]
            tables.append(page.table([column, *splits], body, f"Images by {column}"))
    return "".join(tables)


def _quarantine(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return "<p>Nothing.</p>"
    more = len(rejected) - _QUARANTINE_SHOWN
    note = f"<p>and {more} more in quarantine.csv</p>" if more > 0 else ""
    body = [(r.file, r.reason) for r in rejected[:_QUARANTINE_SHOWN]]
    return page.table(["file", "reason"], body, "Files left out", words=True) + note
