"""`report.html`: what was asked of a run, what came out, and how far it can be believed, on one page."""

import dataclasses
import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osteojax import config as configs
from osteojax import leaky
from osteojax.data import leaks
from osteojax.data.columns import Columns
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.files import write_atomically
from osteojax.metrics.difference import with_interval
from osteojax.page import Html, details, document, note, paragraph, section, table, text
from osteojax.report.entries import entry, headlines, percent
from osteojax.report.gallery import Explained, Shown, explained
from osteojax.report.svg import Chart, confusion
from osteojax.run.fitted import fitted
from osteojax.run.open import Run, open_run
from osteojax.run.origin import told

log = logging.getLogger(__name__)

# Table 1 of the paper, in %: precision, recall, F1 of each class, and the accuracy.
PAPER = {"healthy": (92.4, 94.1, 93.2), "osteopenia": (88.7, 86.3, 87.5), "osteoporosis": (90.1, 89.5, 89.8)}
PAPER_ACCURACY = 90.2
_SECTIONS = {
    "answer": "Answer",
    "classes": "By class",
    "errors": "Errors",
    "calibration": "Calibration",
    "decisions": "Decisions",
    "subgroups": "Subgroups",
    "gallery": "Images",
    "training": "Training",
    "data": "Data",
    "provenance": "Provenance",
    "limits": "Limits",
}


@dataclasses.dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        run: the checkpoint.
        metrics: of metrics.json.
        curves: of curves.json.
        log: lines of metrics.jsonl.
        starts: entries of run.json.
        dataset: that was evaluated; None where it is not at hand.
        manifest: its rows; None where there are none.
        audit: of audit.json; None likewise.
        explained: the gallery; None where it was not asked for, there is no dataset, or the network takes columns too.
    """

    run: Run
    metrics: Mapping[str, Any]
    curves: Mapping[str, Any]
    log: Sequence[Mapping[str, float]]
    starts: Sequence[Mapping[str, Any]]
    dataset: PreparedDataset | None
    manifest: list[dict[str, str]] | None
    audit: Mapping[str, Any] | None
    explained: Explained | None

    @property
    def names(self) -> list[str]:
        """Classes in order."""
        return self.run.class_names

    @property
    def mark(self) -> leaky.Mark | None:
        """Of what a leaky split had a part in: the run, or the dataset that was evaluated."""
        return leaky.of(self.metrics) or self.run.mark

    @property
    def leaks(self) -> leaks.Leaks | None:
        """What training and the evaluated split share; None where there is no manifest."""
        if self.manifest is None:
            return None
        train, tested = (
            leaks.part(self.manifest, name, *self.run.tested) for name in ("train", self.metrics["split"])
        )
        return leaks.between(train, tested)


def gather(workdir: Path, *, split: str = "test", explain: bool = True) -> Material:
    """Reads what a run and its evaluation left, and draws the gallery.

    Raises:
        UserError: the split was not evaluated, or what is there is damaged.
    """
    run = open_run(workdir)
    folder = workdir / "eval" / split
    metrics, curves = _json(folder / "metrics.json"), _json(folder / "curves.json")
    lines = [json.loads(line) for line in _lines(workdir / "metrics.jsonl")]
    try:
        dataset: PreparedDataset | None = run.dataset()
    except UserError as error:
        log.warning("%s: the report has neither images nor facts of the data", error)
        dataset = None
    shown = None
    if dataset is not None and explain and run.columns is None:
        source = dataset.source(split)
        shown = explained(run, source, fitted(run), run.logits(source), source.labels())
    directory = dataset.directory if dataset else None
    return Material(
        run,
        metrics,
        curves,
        lines,
        _json(workdir / "run.json"),
        dataset,
        leaks.read_manifest(directory) if directory else None,
        _json(directory / "audit.json") if directory and (directory / "audit.json").is_file() else None,
        shown,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); evaluate the run again") from error


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def write_report(material: Material, path: Path) -> None:
    """Writes the page, whole or not at all."""
    write_atomically(path, page(material))


def page(given: Material) -> Html:
    """The page."""
    metrics = given.metrics
    title = f"Bone health from radiographs: {given.run.workdir.resolve().name}"
    lead = paragraph(
        f"{_architecture(given)}, evaluated on {metrics['n']} images of {metrics['patients']} patients "
        f"({metrics['split']} split), checkpoint of step {metrics['checkpoint_step']}.",
        "soft",
    )
    body = [
        section("answer", "Answer", *_answer(given)),
        section("classes", "By class, beside the paper", *_classes(given)),
        section("errors", "Errors and curves", *_errors(given)),
        section("calibration", "Calibration and sets", *_calibration(given)),
        section("decisions", "Two-class questions", *_decisions(given)),
        section("subgroups", "Subgroups", *_subgroups(given)),
        section("gallery", "Images and where the network looked", *_gallery(given)),
        section("training", "Training", *_training(given)),
        section("data", "Data", *_data(given)),
        section("provenance", "Provenance", *_provenance(given)),
        section("limits", "Limits", *_limits(given)),
    ]
    return document(title, body, sections=_SECTIONS, lead=lead, mark=given.mark)


def _architecture(given: Material) -> str:
    return told(given.run.record["origin"])


def _answer(given: Material) -> list[str]:
    classes = len(given.names)
    balanced = given.metrics["balanced_accuracy"]
    low = balanced["ci95"][0]
    chance = (
        f"Chance is {100 / classes:.0f} % balanced accuracy, and the interval lies above it."
        if low is not None and low > 1 / classes
        else f"The interval includes {100 / classes:.0f} %, which is chance: nothing was shown."
    )
    return [
        *_leak_notes(given),
        headlines(given.metrics),
        paragraph(
            f"{chance} An interval over patients says how far another sample of patients like these would differ; it "
            "says nothing of another hospital, detector or population, and this is no diagnostic device."
        ),
    ]


def _leak_notes(given: Material) -> list[str]:
    found = given.leaks
    if found is None:
        return [
            note("Whether training and test share patients could not be checked: the dataset is not at hand.")
        ]
    what = ", ".join(f"{count} {key.replace('_id', '')}s" for key, count in found.shared.items())
    if found.clean:
        return [
            note(
                f"No leak found: {found.compared[0]} training and {found.compared[1]} test images share no patient, no "
                "group of copies and no identical pixels.",
                good=True,
            )
        ]
    return [note(f"LEAK: training and test share {what}. The figures below measure memory.")]


def _classes(given: Material) -> list[str]:
    rows = []
    for name in given.names:
        of = given.metrics["per_class"][name]
        rows.append(
            (name, *(percent(of[key]) for key in ("precision", "recall", "f1", "specificity")), of["support"])
        )
    ours = table(
        ("class", "precision %", "recall %", "F1 %", "specificity %", "images"),
        rows,
        "This run, with 95 % intervals",
    )
    theirs = [(name, *PAPER[name]) for name in given.names if name in PAPER]
    if not theirs:
        return [ours]
    return [
        ours,
        table(
            ("class", "precision %", "recall %", "F1 %"),
            theirs,
            "The paper's Table 1, on private radiographs",
        ),
        paragraph(
            f"The paper's accuracy is {PAPER_ACCURACY} %. It states no intervals, and its images cannot be audited: "
            "the two tables are not of the same thing."
        ),
    ]


def _errors(given: Material) -> list[str]:
    matrix = given.metrics["confusion_matrix"]
    charts = [
        f"<figure>{confusion(matrix, given.names)}<figcaption><strong>Confusion matrix</strong> rows are true "
        "classes; % of the row</figcaption></figure>"
    ]
    roc = Chart(
        "ROC", "false positive rate", "sensitivity", note="each class against the rest; bands over patients"
    )
    recall = Chart("Precision and recall", "recall", "precision", note="each class against the rest")
    curves = ((name, given.curves[name]) for name in given.names if name in given.curves)
    for series, (name, of) in enumerate(curves):
        for chart, key in ((roc, "roc"), (recall, "precision_recall")):
            curve = of[key]
            chart.band(curve["at"], curve["low"], curve["high"], series)
            chart.line(curve["x"], curve["y"], series, name)
    charts += [roc.diagonal().figure(), recall.figure()]
    rows = [
        (name, entry(given.metrics["auc_ovr"][name]), entry(given.metrics["pr_auc"][name]))
        for name in given.names
    ]
    counts = [(name, *counts) for name, counts in zip(given.names, matrix, strict=True)]
    ordinal = [
        (name.replace("_", " "), entry(given.metrics[name]))
        for name in ("quadratic_weighted_kappa", "mean_absolute_class_error", "c_index", "mcc", "macro_f1")
        if name in given.metrics
    ]
    return [
        f'<div class="charts">{"".join(charts)}</div>',
        table(("class", "ROC AUC", "average precision"), rows, "Areas, with 95 % intervals"),
        table(("measure", "value"), ordinal, "Of all classes together, with 95 % intervals"),
        *([_t_score(given.metrics["t_score"])] if "t_score" in given.metrics else []),
        details(
            "Confusion matrix as a table",
            table(("true", *given.names), counts, "Rows true, columns predicted"),
        ),
    ]


def _calibration(given: Material) -> list[str]:
    found = given.metrics["calibration"]
    chart = Chart(
        "Reliability", "confidence", "accuracy", note="bins of confidence with intervals over patients"
    )
    for series, key in enumerate(key for key in ("before", "after") if key in found):
        bins = found[key]["reliability"]
        chart.bars(
            [b["confidence"] for b in bins], [b["value"] for b in bins],
            [b["ci95"][0] for b in bins], [b["ci95"][1] for b in bins], series,
            "as trained" if key == "before" else "temperature scaled",
        )  # fmt: skip
    rows = [
        (name.replace("_", " "), *(entry(found[key][name]) for key in ("before", "after") if key in found))
        for name in ("ece", "calibration_error_debiased", "brier", "cross_entropy")
    ]
    head = (
        ("measure", "as trained", "after temperature scaling")
        if "after" in found
        else ("measure", "as trained")
    )
    parts = [
        f'<div class="charts">{chart.diagonal().figure()}</div>',
        table(head, rows, "Calibration, with 95 % intervals"),
    ]
    if found["temperature"] is None:
        parts.insert(0, note("There is no validation split at hand: nothing could be calibrated."))
    else:
        parts.append(paragraph(f"Temperature {found['temperature']:.2f}, fitted on validation."))
    sets = given.metrics["conformal"]
    if sets:
        lines = [
            (
                {"lac": "LAC", "aps": "APS", "by_class": "LAC by class"}[method],
                percent(sets[method]["coverage"]),
                *(percent(sets[method]["by_class"][name]) for name in given.names),
                f"{sets[method]['mean_size']:.2f}",
                f"{100 * sets[method]['of_one_class']:.0f} %",
            )
            for method in ("lac", "aps", "by_class")
        ]
        parts.append(
            table(
                ("sets", "coverage %", *given.names, "classes a set", "of one class"),
                lines,
                f"Conformal prediction sets for {100 * sets['asked_for']:.0f} %, from {sets['validation_images']} "
                "validation images",
            )
        )
    return parts


def _decisions(given: Material) -> list[str]:
    found = given.metrics["questions"]
    if not found:
        return [paragraph("There are not three ordered classes: nothing is asked of them in two.")]
    charts, rows = [], []
    for question, of in found.items():
        name = question.replace("_", " ")
        fit = of["calibration"] or {"intercept": np.nan, "slope": np.nan}
        rows.append(
            (name, of["positives"], entry(of["auc"]), f"{fit['intercept']:.2f}", f"{fit['slope']:.2f}")
        )
        curve = of["decision_curve"]
        highest = max(max(curve["model"]), 0.05)
        chart = Chart(
            f"Decision curve: {name}", "threshold probability", "net benefit",
            y_range=(-0.1, np.ceil(10 * highest) / 10), note="against treating all (dashed) and none (0)",
        )  # fmt: skip
        chart.guide((0, 1), (0, 0)).guide(curve["threshold"], [max(v, -0.1) for v in curve["treat_all"]])
        charts.append(chart.line(curve["threshold"], curve["model"], 0, "the network").figure())
    operating = [
        (
            f"{question.replace('_', ' ')}, {'specificity' if 'spec' in at else 'sensitivity'} 90 % on validation",
            "-"
            if of[at]["threshold_from_validation"] is None
            else f"{of[at]['threshold_from_validation']:.3f}",
            percent(of[at]["sensitivity"]),
            percent(of[at]["specificity"]),
        )
        for question, of in found.items()
        for at in ("at_specificity_90", "at_sensitivity_90")
        if at in of
    ]
    head = ("question", "positive images", "ROC AUC", "calibration intercept", "slope")
    parts = [table(head, rows, "Two-class views, with 95 % intervals")]
    if operating:
        parts.append(
            table(
                ("operating point", "threshold", "sensitivity %", "specificity %"),
                operating,
                "Thresholds chosen on validation, tested as they are",
            )
        )
    return [*parts, f'<div class="charts">{"".join(charts)}</div>']


def _subgroups(given: Material) -> list[str]:
    found = given.metrics["subgroups"]
    if not found:
        return [paragraph("The data have no column with several groups of images.")]
    parts = []
    for column, groups in found.items():
        rows = [
            (
                name + (" *" if of["few"] else ""), of["n"], of["patients"],
                percent(of["accuracy"]), percent(of["balanced_accuracy"]), entry(of["quadratic_weighted_kappa"]),
            )
            for name, of in groups.items()
        ]  # fmt: skip
        head = (column, "images", "patients", "accuracy %", "balanced accuracy %", "quadratic kappa")
        parts.append(table(head, rows, f"By {column}, with 95 % intervals"))
    return [*parts, paragraph("* fewer than 30 patients: too few to compare with anything.", "soft")]


def _gallery(given: Material) -> list[str]:
    if given.run.columns is not None:
        return [
            paragraph("No maps: the network takes columns beside the image, of which a map shows nothing.")
        ]
    if given.explained is None:
        return [paragraph("No images: the dataset is not at hand, or they were not asked for.")]
    parts: list[str] = [
        paragraph(
            "Grad-CAM of the predicted class over the prepared image: where the last stage's features spoke for it. "
            "It is no proof of a reason."
        )
    ]
    if any(shown.attention for shown in given.explained.shown):
        parts.append(
            paragraph(
                "Beside it, where the head's attention looks, whatever the class, carried back through its blocks "
                "(attention rollout)."
            )
        )
    for kind in dict.fromkeys(shown.kind for shown in given.explained.shown):
        figures = "".join(
            f"<figure>{_pictures(shown)}<figcaption>{text(shown.true)}, called {text(shown.predicted)} "
            f"({shown.probability:.2f})</figcaption></figure>"
            for shown in given.explained.shown
            if shown.kind == kind
        )
        parts.append(f'<h3>{text(kind.capitalize())}</h3><div class="gallery">{figures}</div>')
    return [*parts, *_sanity(given.explained)]


def _pictures(shown: Shown) -> str:
    said = f"{text(shown.true)} predicted as {text(shown.predicted)}"
    return "".join(
        f'<img src="{uri}" width="224" height="224" alt="{said}, with its {what}">'
        for uri, what in zip(shown.data_uris, ("map", "attention"), strict=False)
    )


def _sanity(found: Explained) -> list[str]:
    rows = [
        (
            f"{one.parts[-1]} and all above" if len(one.parts) > 1 else one.parts[0],
            _mean(one.spearman),
            _mean(one.ssim),
        )
        for one in found.randomised
    ]
    of_map, of_chance = found.faithfulness.of_map, found.faithfulness.of_chance
    areas = [
        ("deletion (lower is better)", _mean(of_map.deletion_area), _mean(of_chance.deletion_area)),
        ("insertion (higher is better)", _mean(of_map.insertion_area), _mean(of_chance.insertion_area)),
    ]
    chart = Chart(
        "Deletion and insertion",
        "share of the pixels",
        "probability of the class",
        note=f"mean of {found.images} images",
    )
    for series, (name, curve) in enumerate(
        (
            ("deletion", of_map.deletion),
            ("insertion", of_map.insertion),
            ("deletion, chance", of_chance.deletion),
            ("insertion, chance", of_chance.insertion),
        )
    ):
        chart.line(of_map.shares.tolist(), curve.mean(0).tolist(), series, name)
    return [
        "<h3>Can the maps be believed?</h3>",
        table(
            ("parts drawn anew", "rank correlation", "structural similarity"), rows,
            f"Parameter randomisation (Adebayo et al. 2018), mean of {found.images} images: a map that stays alike "
            "does not show what was learned",
        ),
        table(("curve", "area by the map", "area by chance"), areas, "Deletion and insertion (Petsiuk et al. 2018)"),
        f'<div class="charts">{chart.figure()}</div>',
    ]  # fmt: skip


def _columns(columns: Columns) -> list[str]:
    """What the network takes beside the image, as its training split had it."""
    rows = [
        (
            one.name, one.known, one.missing,
            ", ".join(one.categories) or f"mean {one.mean:.4g}, standard deviation {one.deviation:.4g}",
        )
        for one in columns.columns
    ]  # fmt: skip
    return [
        table(
            ("column", "known", "missing", "in the training split"),
            rows,
            "Columns that the network takes beside the image",
        ),
        paragraph(
            "Whether the image adds anything to them is not told by this page: compare with osteojax baselines, whose "
            "row `clinical` has the columns alone, and with a run without model.covariates."
        ),
    ]


def _t_score(found: Mapping[str, Any]) -> str:
    rows = [
        (name, with_interval(found[key]["value"], *found[key]["ci95"]))
        for key, name in (("mae", "mean absolute error"), ("bias", "mean error, predicted less measured"))
    ]
    return table(("T-score", "value"), rows, f"T-scores of {found['n']} images, with 95 % intervals")


def _mean(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.2f}" if len(known) else "-"


def _training(given: Material) -> list[str]:
    charts: list[str] = []
    split = given.run.config.eval.split
    probed = given.run.record["origin"].get("probe")
    counted = "number of the strength" if probed else "step"
    for title, keys in (
        ("Loss", (("train/loss", "training"), (f"{split}/cross_entropy", "validation"))),
        (
            "Validation",
            ((f"{split}/balanced_accuracy", "balanced accuracy"), (f"{split}/macro_f1", "macro F1")),
        ),
    ):
        found = [
            (name, [(line["step"], line[key]) for line in given.log if key in line]) for key, name in keys
        ]
        found = [(name, points) for name, points in found if len(points) > 1]
        if not found:
            continue
        highest = max(y for _, points in found for _, y in points)
        last = max(x for _, points in found for x, _ in points)
        chart = Chart(
            title, counted, title.lower(), (0, last), (0, 1 if title == "Validation" else 1.05 * highest)
        )
        for series, (name, points) in enumerate(found):
            chart.line([x for x, _ in points], [y for _, y in points], series, name)
        charts.append(chart.figure())
    best = f"{counted} {given.run.best_step}" + (f", {probed['strength']:.3g}" if probed else "")
    return [
        f'<div class="charts">{"".join(charts)}</div>' if charts else "",
        paragraph(f"Best checkpoint by validation {given.run.config.best.metric}: {best}."),
    ]


def _data(given: Material) -> list[str]:
    parts = [] if given.run.columns is None else _columns(given.run.columns)
    if given.manifest:
        splits = sorted({row["split"] for row in given.manifest})
        rows = []
        for split in splits:
            mine = [row for row in given.manifest if row["split"] == split]
            counts = [sum(row["label"] == name for row in mine) for name in given.names]
            rows.append((split, *counts, len(mine), len({row["patient_id"] for row in mine})))
        parts.append(table(("split", *given.names, "images", "patients"), rows, "Images by split and class"))
    if given.audit:
        facts = [
            (name.replace("_", " "), len(given.audit.get(name, ())))
            for name in ("exact_duplicates", "near_duplicates", "conflicts", "near_conflicts")
        ]
        parts.append(table(("found in the source", "groups"), facts, "Audit of the source"))
        cues = [
            (
                cue["cue"],
                *(f"{of['value']:.2f} ({of['ci95'][0]:.2f} to {of['ci95'][1]:.2f})"
                  for of in cue["balanced_accuracy"].values()),
                "yes" if cue["predicts"] else "no",
            )
            for cue in given.audit.get("shortcuts", ())
        ]  # fmt: skip
        if cues:
            head = ("cue", *given.audit["shortcuts"][0]["balanced_accuracy"], "predicts")
            parts.append(
                table(head, cues, "What predicts the label without looking at bone: balanced accuracy")
            )
        parts += [note(warning) for warning in given.audit.get("warnings", ())]
    spec = json.dumps(given.run.record["preprocessing"], sort_keys=True)
    return (
        [*parts, details("Preprocessing", f"<pre>{text(spec)}</pre>")]
        if parts
        else [paragraph("The dataset is not at hand."), f"<pre>{text(spec)}</pre>"]
    )


def _provenance(given: Material) -> list[str]:
    record, metrics = given.run.record, given.metrics
    start = given.starts[-1] if given.starts else {}
    facts = [
        ("dataset fingerprint", metrics["dataset_fingerprint"]),
        ("config hash", metrics["config_hash"]),
        ("weights", f"{told(record['origin'])}: {json.dumps(record['origin'], sort_keys=True)}"),
        ("osteojax", importlib.metadata.version("osteojax")),
        ("git commit", start.get("git_commit")),
        ("command", start.get("command")),
        ("devices", f"{start.get('devices')} x {start.get('device_kind')}"),
        ("starts of the run", len(given.starts)),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
    differences = _from_paper(given)
    return [
        table(("fact", "value"), [*facts, ("versions", versions)], "Where this comes from", words=True),
        table(
            ("key", "the paper's", "this run's"),
            differences,
            "What differs from the paper's config",
            words=True,
        ),
        details("The whole config", f"<pre>{text(configs.to_json(given.run.config))}</pre>"),
    ]


def _from_paper(given: Material) -> list[tuple[str, str, str]]:
    paper = configs.load("configs/train/paper_resnet50.py")
    changed = configs.differences(paper, given.run.config)
    rows = []
    for key, change in changed.items():
        before, _, after = str(change).partition(" -> ")
        if key not in ("data.dir", "dataset_fingerprint"):
            rows.append((key, before, after))
    return rows


def _limits(given: Material) -> list[str]:
    few = [name for name in given.names if given.metrics["per_class"][name]["support"] < 30]
    limits = [
        "Classes come from the source's labels; how they were made (DXA, a reader, a file name) is not known here.",
        "One data source: nothing was shown for another hospital, detector, body part or population.",
        "The maps show where features spoke for a class, not why.",
        "Whether an image is unlike the training images is told by two scores with thresholds from validation; what is "
        "close to them and still of another kind passes.",
    ]
    if few:
        limits.insert(0, f"Fewer than 30 test images of {', '.join(few)}: read their intervals first.")
    return ["<ul>" + "".join(f"<li>{text(limit)}</li>" for limit in limits) + "</ul>"]
