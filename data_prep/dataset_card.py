"""`dataset_card.md`: the data set in a page of text, for whoever gets it without its page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.manifest import Row
from data_prep.source import Rejected, in_order
from osteojax import leaky


def card(
    rows: Sequence[Row],
    rejected: Sequence[Rejected],
    *,
    class_names: Sequence[str],
    spec: str,
    fingerprint: str,
    audit: Mapping[str, Any],
    warnings: Sequence[str],
    mark: leaky.Mark | None,
) -> str:
    """The card as Markdown.

    What only the owner of the source knows is asked for, and not made up.
    """
    counts = Counter((row.split, row.label) for row in rows)
    splits = in_order(row.split for row in rows)
    table = []
    for split in splits:
        images = [counts[split, name] for name in class_names]
        patients = len({row.patient_id for row in rows if row.split == split})
        table.append(f"| {' | '.join(map(str, (split, *images, sum(images), patients)))} |")
    cues = [
        f"{cue['cue']} alone reaches a balanced accuracy of {best['value']:.2f} (chance {cue['chance']:.2f})"
        for cue in audit["shortcuts"]
        if (best := max(cue["balanced_accuracy"].values(), key=lambda score: score["value"]))["ci95"][0]
        > cue["chance"]
    ]
    return "\n".join(
        [
            "# Dataset card",
            "",
            *([f"**{leaky.told(mark)}.**", ""] if mark else []),
            f"**What it is.** {len(rows)} radiographs of {len({row.patient_id for row in rows})} patients, prepared by "
            f"osteojax. Fingerprint `{fingerprint}`.",
            "",
            f"| split | {' | '.join(class_names)} | images | patients |",
            f"|{'---|' * (len(class_names) + 3)}",
            *table,
            "",
            f"**How the pixels were made.** `{spec}`",
            "",
            f"**Copies.** {len(audit['exact_duplicates'])} pictures lie in several files, {len(audit['conflicts'])} of "
            f"them under contradictory labels; {len(audit['near_duplicates'])} pairs of near copies.",
            "",
            f"**Shortcuts.** {'; '.join(cues) or 'None was found, or none was looked for'}.",
            "",
            f"**Left out.** {len(rejected)} files; `quarantine.csv` has the reasons.",
            "",
            *(["**To know.**", "", *(f"- {text}" for text in warnings), ""] if warnings else []),
            "**To be filled in by its owner.** Where the radiographs were taken, of whom and when; how the labels were "
            "made, by whom, against which reference; consent, licence, and whom to ask.",
            "",
        ]
    )
