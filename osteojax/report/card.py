"""`model_card.md`: the model in a page of text, and the checklists answered from the run's record."""

import json
from pathlib import Path

from osteojax import leaky
from osteojax.files import write_atomically
from osteojax.report.checklists import CLAIM, TRIPOD, markdown
from osteojax.report.entries import percent
from osteojax.report.report import Material
from osteojax.run.origin import learned_before, told
from osteojax.train.augment import switched_on


def write_card(given: Material, path: Path) -> None:
    """Writes the card, whole or not at all."""
    write_atomically(path, card(given))


def card(given: Material) -> str:
    """The card as Markdown."""
    metrics, found = given.metrics, facts(given)
    rows = [
        f"| {name} | {percent(of['precision'])} | {percent(of['recall'])} | {percent(of['f1'])} | {of['support']} |"
        for name, of in metrics["per_class"].items()
    ]
    return "\n".join(
        [
            f"# Model card: {given.run.workdir.resolve().name}",
            "",
            *([f"**{leaky.told(given.mark)}.**", ""] if given.mark else []),
            f"**Model.** {found['model']}",
            "",
            "**Intended use.** Research. It is no medical device: no clinical use was studied.",
            "",
            f"**Data.** {found.get('splits', 'The manifest is not at hand.')} {found.get('leaks', '')}",
            "",
            f"**Performance** on the {metrics['split']} split, in % with 95 % intervals over patients:",
            "",
            "| class | precision | recall | F1 | images |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"{found['internal']} {found['calibration']}",
            "",
            f"**Input that it was not made for.** {found['novelty']}",
            "",
            f"**Limits.** {found['limits']}",
            "",
            f"**Reproduce.** `{given.starts[-1].get('command') if given.starts else ''}`; {found['software']}",
            "",
            "# Checklists",
            "",
            "What the record of the run answers, and who must answer the rest. Items in our words; read the originals.",
            "",
            markdown("CLAIM 2024", CLAIM, found),
            markdown("TRIPOD+AI", TRIPOD, found),
        ]
    )


def facts(given: Material) -> dict[str, str]:
    """Subject -> what the record says of it; subjects of which it says nothing are not there."""
    metrics, run = given.metrics, given.run
    config, origin = run.config, run.record["origin"]
    start = given.starts[-1] if given.starts else {}
    versions = ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
    temperature = metrics["calibration"]["temperature"]
    found = {
        "method": f"convolutional network, {learned_before(origin)}",
        "model": (
            f"{origin['architecture']}, {' x '.join(map(str, run.record['image_shape']))} image in [0, 1]"
            f"{'' if run.columns is None else ' and ' + ', '.join(run.columns.names)} to "
            f"probabilities of {', '.join(given.names)}."
        ),
        "preprocessing": f"`{json.dumps(run.record['preprocessing'], sort_keys=True)}`",
        "weights": f"{told(origin)}: {json.dumps(origin.get('weights'))}",
        "training": (
            f"preset {config.preset}, {config.epochs:g} epochs, batch {config.data.batch_size}, "
            f"{config.optimizer.name} at {config.optimizer.learning_rate:g}, augmentation "
            f"{json.dumps(switched_on(config.augment.to_dict()))}, class weights {config.loss.class_weights}, "
            f"seed {config.seed}"
        ),
        "selection": f"best checkpoint by validation {config.best.metric}: step {run.best_step}",
        "ensemble": "none: one checkpoint",
        "metrics": "accuracy, precision, recall, F1, specificity, areas, kappa, calibration errors",
        "intervals": "95 % over patients: score, jackknife and test-inversion intervals (docs/intervals.md)",
        "software": f"{versions}; commit {start.get('git_commit')}; config {metrics['config_hash'][:12]}",
        "internal": (
            f"Accuracy {percent(metrics['accuracy'])} %, balanced accuracy {percent(metrics['balanced_accuracy'])} % "
            f"on {metrics['n']} images of {metrics['patients']} patients."
        ),
        "subgroups": (
            f"by {', '.join(metrics['subgroups'])} in report.html" if metrics["subgroups"] else "no metadata"
        ),
        "calibration": (
            "Probabilities are not calibrated." if temperature is None
            else f"Probabilities are scaled by a temperature of {temperature:.2f} fitted on validation."
        ),
        "novelty": (
            "Nothing was fitted to tell it." if temperature is None
            else "Flagged by Mahalanobis distance or energy beyond 95 % of validation; broken files are refused."
        ),
        "limits": (
            "One source of data; labels as the source has them; intervals are over patients of this source. "
            f"Smallest class in the test: {min(of['support'] for of in metrics['per_class'].values())} images."
        ),
    }  # fmt: skip
    if given.explained is not None:
        found["explain"] = "Grad-CAM with parameter randomisation, deletion and insertion, in report.html"
        found["failures"] = "the surest wrong answers are shown in report.html"
    if given.manifest:
        found |= _of_manifest(given, given.manifest)
    return found


def _of_manifest(given: Material, manifest: list[dict[str, str]]) -> dict[str, str]:
    splits = {
        name: [row for row in manifest if row["split"] == name]
        for name in dict.fromkeys(r["split"] for r in manifest)
    }
    counts = "; ".join(
        f"{name}: {len(rows)} images of {len({row['patient_id'] for row in rows})} patients"
        for name, rows in splits.items()
    )
    leaks = given.dataset is not None and given.dataset.mark is not None
    shared = given.leaks
    assert shared is not None  # there is a manifest
    directory = given.dataset.directory if given.dataset else None
    left_out = ""
    if directory and (directory / "quarantine.csv").is_file():
        lines = (directory / "quarantine.csv").read_text(errors="replace").splitlines()
        left_out = f"{len(lines) - 1} files were left out, each with its reason, in quarantine.csv."
    return {
        "splits": f"Divided by {'a split that leaks' if leaks else 'patient and by image content'}. {counts}.",
        "leaks": (
            "Training and test share no patient, group or identical image." if shared.clean
            else f"LEAK between training and test: {shared.shared}."
        ),
        "source": f"dataset {given.metrics['dataset_fingerprint'][:12]}",
        "quarantine": left_out or "no record of files left out",
    }  # fmt: skip
