"""The figures of an evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import RocCurveDisplay

from osteojax import leaky


def draw_figures(
    out: Path, logits: np.ndarray, labels: np.ndarray, metrics: dict[str, Any], class_names: list[str]
) -> None:
    """Writes confusion.png and roc.png into `out`.

    Args:
        out: an existing folder.
        logits: (N, C).
        labels: (N,).
        metrics: as of `osteojax.metrics.score.score_predictions`.
        class_names: C names in label order.
    """
    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    matrix = np.asarray(metrics["confusion_matrix"])
    axes.imshow(matrix, cmap="Blues")
    for (row, column), count in np.ndenumerate(matrix):
        axes.text(
            column,
            row,
            count,
            ha="center",
            va="center",
            color="white" if count > matrix.max() / 2 else "black",
        )
    axes.set(
        xlabel="predicted", ylabel="true", xticks=range(len(class_names)), yticks=range(len(class_names))
    )
    axes.set_xticklabels(class_names)
    axes.set_yticklabels(class_names, rotation=90, va="center")
    _save(figure, out / "confusion.png", metrics)

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    probabilities = softmax(logits, axis=-1)
    for c, name in enumerate(class_names):
        if 0 < (labels == c).sum() < len(labels):
            RocCurveDisplay.from_predictions(labels == c, probabilities[:, c], name=name, ax=axes)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    _save(figure, out / "roc.png", metrics)


def _save(figure: Figure, path: Path, metrics: dict[str, Any]) -> None:
    if leaky.of(metrics) is not None:
        figure.suptitle(leaky.WORDS, color="#b00020", fontweight="bold")
    figure.savefig(path, dpi=120)
