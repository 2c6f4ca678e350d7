"""`dataset_card.md`: the data set in a page of text, for whoever gets it without its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.manifest import Row, counts_by_split
from data_prep.source import Rejected
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
    table = [
        f"| {' | '.join(map(str, (split, *images, len(mine), len({row.patient_id for row in mine}))))} |"
        for split, images, mine in counts_by_split(rows, class_names)
    ]
    cues = [cue["cue"] for cue in audit["shortcuts"] if cue["predicts"]]
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
            f"**Shortcuts** that alone predict the label: {', '.join(cues) or 'none found, or none looked for'}.",
            "",
            f"**Left out.** {len(rejected)} files; `quarantine.csv` has the reasons.",
            "",
            *(["**To know.**", "", *(f"- {text}" for text in warnings), ""] if warnings else []),
            "**To be filled in by its owner.** Where the radiographs were taken, of whom and when; how the labels were "
            "made, by whom, against which reference; consent, licence, and whom to ask.",
            "",
        ]
    )
