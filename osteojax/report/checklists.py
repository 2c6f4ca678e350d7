"""The items of CLAIM 2024 and TRIPOD+AI, in our words, and which of them a run's record answers.

CLAIM: Tejani et al., Radiology: Artificial Intelligence 2024, 6(4):e240300. TRIPOD+AI: Collins et al., BMJ 2024,
385:e078378. The numbers are theirs; read the items there.
"""

import dataclasses
from collections.abc import Mapping, Sequence

# Who answers what no record can.
AUTHORS, CLINIC, DATA_OWNERS = (
    "the authors of the study",
    "the clinicians of the study",
    "the owners of the data",
)


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: in the checklist.
        asks: what it asks for, in short.
        answered_by: key of the facts of the run that answer it, or who must.
    """

    number: str
    asks: str
    answered_by: str


CLAIM: Sequence[Item] = tuple(
    Item(number, asks, answered_by)
    for number, asks, answered_by in (
        ("1", "title or abstract names the kind of method", "method"),
        ("2", "structured abstract", AUTHORS),
        ("3", "scientific and clinical background, intended use", CLINIC),
        ("4", "aims, objectives, hypotheses", AUTHORS),
        ("5", "prospective or retrospective", DATA_OWNERS),
        ("6", "goal of the study", AUTHORS),
        ("7", "data sources", "source"),
        ("8", "inclusion and exclusion of patients or images", "quarantine"),
        ("9", "preprocessing", "preprocessing"),
        ("10", "selection of subsets of the data", "splits"),
        ("11", "de-identification", DATA_OWNERS),
        ("12", "missing data", "quarantine"),
        ("13", "image acquisition protocol", DATA_OWNERS),
        ("14", "definition of the reference standard", DATA_OWNERS),
        ("15", "why that reference standard", CLINIC),
        ("16", "source of the annotations, qualification of annotators", DATA_OWNERS),
        ("17", "annotation of the test set", DATA_OWNERS),
        ("18", "variability of annotation, and what was done about it", DATA_OWNERS),
        ("19", "assignment to partitions", "splits"),
        ("20", "level at which partitions are disjoint", "leaks"),
        ("21", "intended sample size", AUTHORS),
        ("22", "the model: inputs, outputs, layers", "model"),
        ("23", "software and packages", "software"),
        ("24", "initialisation of the parameters", "weights"),
        ("25", "training: augmentation, hyperparameters, number of models", "training"),
        ("26", "selection of the final model", "selection"),
        ("27", "ensembling", "ensemble"),
        ("28", "metrics of performance", "metrics"),
        ("29", "significance and uncertainty", "intervals"),
        ("30", "robustness or sensitivity analysis", "subgroups"),
        ("31", "explainability", "explain"),
        ("32", "evaluation on internal data", "internal"),
        ("33", "evaluation on external data", AUTHORS),
        ("34", "registration of a trial", AUTHORS),
        ("35", "numbers of patients and images in- and excluded", "splits"),
        ("36", "demographic and clinical characteristics of the partitions", "subgroups"),
        ("37", "performance on all partitions, with benchmarks", "internal"),
        ("38", "estimates of performance with their precision", "internal"),
        ("39", "failure analysis", "failures"),
        ("40", "limitations", "limits"),
        ("41", "implications for practice, intended use", CLINIC),
        ("42", "full study protocol", AUTHORS),
        ("43", "where software, model and data are", "software"),
        ("44", "funding and the role of funders", AUTHORS),
    )
)  # fmt: skip

TRIPOD: Sequence[Item] = tuple(
    Item(number, asks, answered_by)
    for number, asks, answered_by in (
        ("1", "title: prediction model, population, outcome", AUTHORS),
        ("2", "abstract by TRIPOD+AI for Abstracts", AUTHORS),
        ("3a-c", "background: context, target population, health inequalities", CLINIC),
        ("4", "objectives: development or evaluation", "internal"),
        ("5a-b", "data: sources, dates", DATA_OWNERS),
        ("6a-c", "participants: setting, eligibility, treatments", DATA_OWNERS),
        ("7", "data preparation and quality checks", "preprocessing"),
        ("8a-c", "outcome: definition, assessors, blinding", DATA_OWNERS),
        ("9a-c", "predictors: choice, definition, assessment", "preprocessing"),
        ("10", "sample size and its justification", "splits"),
        ("11", "missing data", "quarantine"),
        ("12a", "use of the data, partitions", "splits"),
        ("12b", "form of predictors", "preprocessing"),
        ("12c", "type of model, building, internal validation", "training"),
        ("12d", "heterogeneity between clusters", "subgroups"),
        ("12e", "measures of performance", "metrics"),
        ("12f", "model updating", "calibration"),
        ("12g", "how predictions were calculated", "software"),
        ("13", "class imbalance", "training"),
        ("14", "fairness", "subgroups"),
        ("15", "output of the model: probabilities, thresholds", "calibration"),
        ("16", "differences between development and evaluation data", "leaks"),
        ("17", "ethical approval", DATA_OWNERS),
        ("18a-f", "open science: funding, conflicts, protocol, registration, data, code", AUTHORS),
        ("19", "patient and public involvement", AUTHORS),
        ("20a-c", "participants: flow, characteristics, comparison", "splits"),
        ("21", "numbers of participants and outcomes in each analysis", "splits"),
        ("22", "full model, to predict in new people", "software"),
        ("23a", "performance with intervals, in subgroups", "internal"),
        ("23b", "heterogeneity of performance", "subgroups"),
        ("24", "results of model updating", "calibration"),
        ("25", "interpretation, fairness", CLINIC),
        ("26", "limitations", "limits"),
        ("27a-c", "usability: poor input, interaction, next steps", "novelty"),
    )
)  # fmt: skip


def markdown(title: str, items: Sequence[Item], facts: Mapping[str, str]) -> str:
    """The checklist as a table: what the record answers, and who must answer the rest."""
    lines = [f"## {title}", "", "| item | asks for | answer |", "|---|---|---|"]
    for item in items:
        answer = facts.get(item.answered_by)
        if answer is None:
            answer = (
                f"*to be answered by {item.answered_by}*"
                if " " in item.answered_by
                else "*not in the record*"
            )
        lines.append(f"| {item.number} | {item.asks} | {answer.replace('|', '/')} |")
    return "\n".join(lines) + "\n"
