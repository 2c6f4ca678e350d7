"""The page of several runs: what they say together, what each says, and how far seeds and folds differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osteojax import folds, leaky
from osteojax.data import leaks
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.files import write_atomically
from osteojax.page import Html, document, note, paragraph, section, table, text
from osteojax.report.entries import entry, headlines, percent
from osteojax.report.svg import Chart, confusion

_SECTIONS = {
    "answer": "Answer",
    "runs": "Runs",
    "spread": "Spread",
    "classes": "By class",
    "errors": "Errors",
    "provenance": "Provenance",
    "limits": "Limits",
}
_SHOWN = "balanced_accuracy"


def write_pooled(found: Mapping[str, Any], path: Path) -> None:
    """Writes the page of what `osteojax pool` found, whole or not at all."""
    write_atomically(path, pooled_page(found, [leaks_of(run, found["split"]) for run in found["runs"]]))


def leaks_of(run: Mapping[str, Any], split: str) -> leaks.Leaks | None:
    """What a run's training and the evaluated split share; None where its dataset is not at hand."""
    try:
        config = json.loads((Path(run["workdir"]) / "config.json").read_text())
        dataset = PreparedDataset.open(config["data"]["dir"])
    except (OSError, ValueError, KeyError, UserError):
        return None
    manifest = leaks.read_manifest(dataset.directory)
    if manifest is None or dataset.fingerprint != run["dataset_fingerprint"]:
        return None
    part = folds.Tested.of(config)
    train, tested = (leaks.part(manifest, name, *part) for name in ("train", split))
    return leaks.between(train, tested)


def pooled_page(found: Mapping[str, Any], checked: Sequence[leaks.Leaks | None]) -> Html:
    """The page.

    Args:
        found: what `osteojax.evaluate.pool.pool_runs` returned.
        checked: what training and test share, of each run in order; None where that is not known.
    """
    runs, names = found["runs"], list(found["per_class"])
    lead = paragraph(
        f"{len(runs)} runs, {_repetitions(found)}; {found['n']} images of {found['patients']} patients "
        f"({found['split']} split), each counted once a repetition.",
        "soft",
    )
    body = [
        section("answer", "Answer", *_leak_notes(runs, checked), *_answer(found)),
        section("runs", "Each run", *_runs(found)),
        section("spread", "Spread over seeds and folds", *_spread(found)),
        section("classes", "By class", _classes(found)),
        section("errors", "Errors", *_errors(found, names)),
        section("provenance", "Provenance", _provenance(runs)),
        section("limits", "Limits", *_limits(found)),
    ]
    return document(
        f"Bone health from radiographs: {len(runs)} runs together",
        body,
        sections=_SECTIONS,
        lead=lead,
        mark=leaky.of(found),
    )


def _repetitions(found: Mapping[str, Any]) -> str:
    number, of = found["repetitions"], found["folds"]
    repetitions = "one repetition" if number == 1 else f"{number} repetitions"
    return f"{repetitions} of {', '.join(map(str, of))} fold{'s' if max(of) > 1 else ''}"


def _leak_notes(runs: Sequence[Mapping[str, Any]], checked: Sequence[leaks.Leaks | None]) -> list[str]:
    pairs = list(zip(runs, checked, strict=True))
    notes: list[str] = []
    for run, found in pairs:
        if found is not None and not found.clean:
            what = ", ".join(f"{count} {key.replace('_id', '')}s" for key, count in found.shared.items())
            notes.append(
                note(
                    f"LEAK: training and test of {_name(run)} share {what}. The figures below measure memory."
                )
            )
    unknown = [_name(run) for run, found in pairs if found is None]
    if unknown:
        notes.append(
            note(f"Whether training and test share patients could not be checked for {', '.join(unknown)}.")
        )
    if not notes:
        notes.append(
            note(
                "No leak found: in no run do training and test images share a patient, a group of copies or "
                "identical pixels.",
                good=True,
            )
        )
    return notes


def _answer(found: Mapping[str, Any]) -> list[str]:
    return [
        headlines(found),
        paragraph(
            "The intervals are over patients. Repetitions test the same patients: values and ends of their intervals "
            "are averaged, so that more repetitions do not pass for more patients. An interval says how far another "
            "sample of patients like these would differ; it says nothing of another hospital, detector or population, "
            "and this is no diagnostic device."
        ),
    ]


def _name(run: Mapping[str, Any]) -> str:
    return Path(run["workdir"]).resolve().name


def _runs(found: Mapping[str, Any]) -> list[str]:
    runs = found["runs"]
    metrics = [
        name for name in ("balanced_accuracy", "accuracy", "auc_ovr_macro") if all(name in r for r in runs)
    ]
    rows = [
        (
            _name(run),
            run["repetition"] + 1,
            *("-" if run[key] in (None, folds.NONE) else run[key] for key in ("seed", "fold")),
            run["n"],
            run["patients"],
            *(entry(run[metric]) for metric in metrics),
        )
        for run in runs
    ]
    head = (
        "run",
        "repetition",
        "seed",
        "fold",
        "images",
        "patients",
        *(m.replace("_", " ") for m in metrics),
    )
    parts: list[str] = [table(head, rows, "Each run by itself, with 95 % intervals over its patients")]
    known = [
        (number, run[_SHOWN])
        for number, run in enumerate(runs, start=1)
        if _SHOWN in run and None not in (run[_SHOWN]["value"], *run[_SHOWN]["ci95"])
    ]
    if known:
        chart = Chart(
            "Balanced accuracy", "run", "balanced accuracy", x_range=(0.0, len(runs) + 1.0),
            note="of each run with its interval; dashed: of all together",
        )  # fmt: skip
        entries = [of for _, of in known]
        chart.bars(
            [number for number, _ in known], [of["value"] for of in entries],
            [of["ci95"][0] for of in entries], [of["ci95"][1] for of in entries], 0, "runs, in the table's order",
        )  # fmt: skip
        together = found[_SHOWN]["value"]
        if together is not None:
            chart.guide(chart.x_range, (together, together))
        parts.append(f'<div class="charts">{chart.figure()}</div>')
    return parts


def _spread(found: Mapping[str, Any]) -> list[str]:
    def deviation(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = [
        (
            name.replace("_", " "),
            entry(found[name]),
            deviation(of["over_repetitions"]),
            deviation(of["over_folds"]),
        )
        for name, of in found["spread"].items()
    ]
    return [
        table(
            ("measure", "together", "sd over repetitions", "sd over folds"),
            rows,
            "Standard deviations of the values of seeds and of folds",
        ),
        paragraph(
            "The spread over repetitions is what another seed changes on the same patients; that over folds is also "
            "what other patients change, and no standard error of the value together: folds share training images."
        ),
    ]


def _classes(found: Mapping[str, Any]) -> Html:
    rows = [
        (name, *(percent(of[key]) for key in ("precision", "recall", "f1", "specificity")), of["support"])
        for name, of in found["per_class"].items()
    ]
    return table(
        ("class", "precision %", "recall %", "F1 %", "specificity %", "images"),
        rows,
        "All runs together, with 95 % intervals",
    )


def _errors(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    matrix = [[round(count, 1) for count in row] for row in found["confusion_matrix"]]
    mean = " mean of the repetitions;" if found["repetitions"] > 1 else ""
    figure = (
        f"<figure>{confusion(matrix, names)}<figcaption><strong>Confusion matrix</strong>{text(mean)} rows are true "
        "classes; % of the row</figcaption></figure>"
    )
    counts = [(name, *row) for name, row in zip(names, matrix, strict=True)]
    return [
        f'<div class="charts">{figure}</div>',
        table(("true", *names), counts, "Confusion matrix: rows true, columns predicted"),
    ]


def _provenance(runs: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        (
            str(run["workdir"]),
            "-" if run["checkpoint_step"] is None else run["checkpoint_step"],
            *(str(run[key] or "-")[:12] for key in ("config_hash", "dataset_fingerprint")),
        )
        for run in runs
    ]
    return table(("run", "step", "config", "dataset"), rows, "What was pooled", words=True)


def _limits(found: Mapping[str, Any]) -> list[str]:
    smallest = min(of["support"] for of in found["per_class"].values())
    return [
        paragraph(
            "One source of data; labels as the source has them. Each run was chosen on its own validation images. "
            f"The smallest class has {smallest:g} images. Calibration, sets, subgroups, images and training curves are "
            "those of a single network: osteojax report of that run."
        )
    ]
