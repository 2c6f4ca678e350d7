"""Two-class questions asked of three-class probabilities, and the thresholds that answer them.

A threshold that is chosen on the images it is tested on flatters: it is chosen on validation here, and tested as it is.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

# What is asked -> the classes that count as yes, of the ordered three.
QUESTIONS: Mapping[str, tuple[int, ...]] = {"osteoporosis_vs_rest": (2,), "abnormal_vs_normal": (1, 2)}
AT = 0.9


def answers(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], question: str
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The probability of yes (N,), and whether it is (N,)."""
    yes = list(QUESTIONS[question])
    return probabilities[:, yes].sum(-1), np.isin(labels, yes)


def at_specificity(score: np.ndarray, positive: np.ndarray, least: float = AT) -> float:
    """The lowest threshold at which at least this share of the negatives lies below it; infinite without negatives.

    A positive answer is a score at or above the threshold.
    """
    negatives = np.sort(score[~positive])
    if not len(negatives):
        return np.inf
    below = int(np.ceil(least * len(negatives) - 1e-9))
    # Just above the score that must lie below it.
    return float(np.nextafter(negatives[below - 1], np.inf)) if below else -np.inf


def at_sensitivity(score: np.ndarray, positive: np.ndarray, least: float = AT) -> float:
    """The highest threshold at which at least this share of the positives lies at or above it."""
    of_positive = np.sort(score[positive])
    if not len(of_positive):
        return -np.inf
    return float(of_positive[int(np.floor((1 - least) * len(of_positive) + 1e-9))])


def net_benefit(
    score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Net benefit of treating from each threshold probability on (Vickers and Elkin 2006), per image."""
    treated = score[:, None] >= thresholds
    true = (treated & positive[:, None]).mean(0)
    false = (treated & ~positive[:, None]).mean(0)
    return true - false * thresholds / (1 - thresholds)


def treat_all(
    positive: Bool[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    """Net benefit of treating everybody."""
    share = positive.mean()
    return share - (1 - share) * thresholds / (1 - thresholds)
