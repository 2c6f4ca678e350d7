"""Intervals that cover: 95 % for a metric of a sample of patients. docs/intervals.md has how often each does.

The percentile bootstrap is too short where patients are few and has no width at all where nothing is wrong. Each kind
of metric has a method that knows better:

- a proportion: Wilson's score interval (1927) with the sample size that the patients' images are worth (design effect,
  Kish 1965), and Student's quantile;
- an area under the ROC curve: the score interval of Newcombe (2006, method 5) with such a size, from DeLong's (1988)
  components summed by patient (Obuchowski 1997);
- an average precision, a concordance: Wilson's, with the size that the jackknife variance tells, at most the patients';
- a calibration error: the test inverted along the gaps that are seen, since noise only ever adds to it;
- the rest: the jackknife over patients, studentised on a scale without bounds. Where fewer than ten patients have a
  wrong image, the errors that were not seen count too: the interval is widened to the metric's values at both ends
  of the interval of the error rate.

None has zero width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import rankdata, t

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.sample import Sample

LEVEL = 0.95
_UNDEFINED = (np.nan, np.nan)
# With fewer wrong patients the jackknife does not know the tail that it has not seen.
_FEW_ERRORS = 10

Function = Callable[[Predictions], np.ndarray]
# f(sample, metric's function, its values (V,)) -> (V, 2) lower and upper ends; NaN where there is no interval.
Interval = Callable[[Sample, Function, np.ndarray], np.ndarray]
# f(predictions) -> what is counted and of how many, (N, V) each.
Counts = Callable[[Predictions], tuple[np.ndarray, np.ndarray]]


def wilson(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Score interval of a proportion p of n (Wilson 1927)."""
    shrink = 1 + quantile**2 / n
    centre = (p + quantile**2 / (2 * n)) / shrink
    half = quantile / shrink * np.sqrt(p * (1 - p) / n + quantile**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def student(patients: int) -> float:
    """Two-sided quantile of Student's t for so many independent patients."""
    return float(t.ppf((1 + LEVEL) / 2, max(patients - 1, 1)))


def effective(variance: float, binomial: float, sizes: np.ndarray) -> float:
    """Design effect: how many images are worth one, 1 to the patients' mean weighted size.

    Args:
        variance: of the statistic, with patients as units.
        binomial: what it would be if all images were independent.
        sizes: images of each patient. Where the variance tells nothing (all or none are right), all images of a
            patient count as one: the cautious end.
    """
    largest = float((sizes**2).sum() / sizes.sum())
    return largest if variance <= 0 or binomial <= 0 else min(max(variance / binomial, 1.0), largest)


def proportion(counts: Counts, then: Callable[[np.ndarray], np.ndarray] = lambda p: p) -> Interval:
    """Interval of a metric that is a share of the images, or a rising function (`then`) of one.

    Args:
        counts: the share's numerator and denominator, image by image.
        then: share -> metric.
    """

    def interval(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
        numerator, denominator = counts(sample.given)
        hits, sizes = sample.by_patient(numerator), sample.by_patient(denominator)
        ends = [share(hits[:, v], sizes[:, v]) for v in range(hits.shape[1])]
        return then(np.asarray(ends))

    return interval


def share(hits: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Interval of sum(hits) / sum(sizes), (patients,) each; NaN where there are none."""
    hits, sizes = hits[sizes > 0], sizes[sizes > 0]
    patients, images = len(sizes), sizes.sum()
    if not patients:
        return _UNDEFINED
    p = hits.sum() / images
    variance = ((hits - p * sizes) ** 2).sum() / images**2 * patients / max(patients - 1, 1)
    n = images / effective(variance, p * (1 - p) / images, sizes)
    # Of one image a patient the score interval is exact enough with the normal quantile.
    return wilson(p, n, student(patients) if (sizes > 1).any() else student(10**6))


def area(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
    """Interval of the area under the ROC curve of each class against the rest."""
    given = sample.given
    return np.asarray(
        [area_between(sample, given.probabilities[:, c], given.labels == c) for c in range(given.classes)]
    )


def area_between(sample: Sample, score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Interval of the area under the ROC curve of a score (N,) for the images that are positive (N,)."""
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return _UNDEFINED
    value, influence = delong(score, positive)
    variance = (sample.by_patient(influence) ** 2).sum()
    sizes = np.bincount(sample.patient).astype(float)
    worth = effective(variance, (influence**2).sum(), sizes)
    return newcombe(value, m / worth, n / worth, student(sample.patients - 1))


def delong(score: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Area under the ROC curve and each image's part in its error: their squares sum to its variance.

    DeLong, DeLong and Clarke-Pearson 1988; by ranks as Sun and Xu 2014.
    """
    m, n = positive.sum(), (~positive).sum()
    ranks = rankdata(score)
    above = np.empty(len(score))
    above[positive] = (ranks[positive] - rankdata(score[positive])) / n
    above[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / m
    value = float(above[positive].mean())
    return value, (above - value) / np.where(positive, m, n)


def newcombe(value: float, m: float, n: float, quantile: float) -> tuple[float, float]:
    """Score interval of an area under the ROC curve of m positives and n negatives (Newcombe 2006, method 5)."""
    k = max((m + n) / 2 - 1, 0)

    def beyond(truth: float) -> float:
        spread = truth * (1 - truth) * (1 + k * (1 - truth) / (2 - truth) + k * truth / (1 + truth)) / (m * n)
        return (value - truth) ** 2 - quantile**2 * spread

    # `beyond` is negative at the value itself, unless that is 0 or 1, where it is 0.
    inside = min(max(value, 1e-9), 1 - 1e-9)
    low = 0.0 if value <= 0 else brentq(beyond, 0.0, inside)
    high = 1.0 if value >= 1 else brentq(beyond, inside, 1.0)
    return float(low), float(high)


def mean_area(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
    """Interval of the mean of the classes' areas: their own ends recombined (MOVER, Zou and Donner 2008).

    One image's probabilities enter all areas; their errors are taken as correlated by a half.
    """
    of_class, ends = sample.given.areas[0][0], area(sample, function, values)
    correlation = np.full((len(of_class),) * 2, 0.5) + 0.5 * np.eye(len(of_class))
    down, up = (of_class - ends[:, 0]) / len(of_class), (ends[:, 1] - of_class) / len(of_class)
    low, high = values[0] - np.sqrt(down @ correlation @ down), values[0] + np.sqrt(up @ correlation @ up)
    return np.asarray([[max(low, 0.0), min(high, 1.0)]])


def average_precision(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
    """Interval of the average precision of each class: binomial with a sample size (Boyd, Eng and Page 2013)."""
    variances = jackknife_variance(function(sample.without))
    of_class = [sample.patient[sample.given.labels == c] for c in range(sample.given.classes)]
    return np.asarray(list(map(_sized, values, variances, of_class)))


def concordance(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
    """Interval of a share of pairs: likewise, with at most the images that the patients are worth."""
    variances = jackknife_variance(function(sample.without))
    return np.asarray([_sized(values[0], variances[0], sample.patient)])


def _sized(value: float, variance: float, patient: np.ndarray) -> tuple[float, float]:
    """Wilson's interval with the size that a variance tells, at most that of these images' patients."""
    sizes = np.bincount(patient)
    sizes = sizes[sizes > 0].astype(float)
    if not len(sizes) or not np.isfinite(value):
        return _UNDEFINED
    most = sizes.sum() ** 2 / (sizes**2).sum()
    told = value * (1 - value) / variance if variance > 0 else most
    return wilson(value, min(told, most), student(len(sizes)))


def jackknife_variance(values: np.ndarray) -> np.ndarray:
    """(V,) variance of a statistic from its values (G, V) or (G,) without each of G groups of patients."""
    values = values.reshape(len(values), -1)
    known = np.isfinite(values)
    groups = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / groups
    return (np.where(known, values - mean, 0) ** 2).sum(0) * (groups - 1) / groups


@dataclasses.dataclass(frozen=True)
class _Scale:
    """A monotone function onto the real line, its inverse and its derivative."""

    forward: Callable[[float], float]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[float], float]


_SCALES: Mapping[str, _Scale] = {
    "share": _Scale(logit, expit, lambda x: 1 / (x * (1 - x))),
    "correlation": _Scale(np.arctanh, np.tanh, lambda x: 1 / (1 - x**2)),
    "positive": _Scale(np.log, np.exp, lambda x: 1 / x),
    "real": _Scale(lambda x: x, lambda x: x, lambda x: 1.0),
}
_INSIDE = {"share": (0, 1), "correlation": (-1, 1), "positive": (0, np.inf), "real": (-np.inf, np.inf)}


def studentised(scale: Literal["share", "correlation", "positive", "real"]) -> Interval:
    """Interval of a metric with values in (0, 1), (-1, 1), (0, inf) or anywhere: jackknife over patients."""
    on, (least, most) = _SCALES[scale], _INSIDE[scale]

    def interval(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
        deviations = np.sqrt(jackknife_variance(function(sample.without)))
        quantile = student(sample.patients)
        ends = []
        for value, deviation in zip(values, deviations, strict=True):
            if not np.isfinite(value) or not np.isfinite(deviation):
                ends.append(_UNDEFINED)
            elif least < value < most:
                half = quantile * deviation * on.slope(value)
                low, high = on.back(np.asarray([-half, half]) + on.forward(value))
                ends.append((float(low), float(high)))
            else:
                ends.append((float(value), float(value)))
        return _with_unseen_errors(sample, function, np.asarray(ends))

    return interval


def positive_mean(sample: Sample, x: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of a quantity above 0, (N,) of the sample's images: jackknife over patients, in logarithms.

    NaN where there is one patient, or nothing varies.
    """
    return _mean(sample, x, "positive")


def mean(sample: Sample, x: np.ndarray) -> tuple[float, float]:
    """Likewise of any quantity."""
    return _mean(sample, x, "real")


def _mean(sample: Sample, x: np.ndarray, scale: str) -> tuple[float, float]:
    value, on = float(np.mean(x)), _SCALES[scale]
    deviation = float(np.sqrt(jackknife_variance(sample.without.mean(x))[0])) if sample.patients > 1 else 0.0
    if deviation == 0:
        return _UNDEFINED
    half = student(sample.patients) * deviation * on.slope(value)
    low, high = on.back(np.asarray([-half, half]) + on.forward(value))
    return float(low), float(high)


def _with_unseen_errors(sample: Sample, function: Function, ends: np.ndarray) -> np.ndarray:
    """The intervals, widened to the metric's values at both ends of the interval of the error rate."""
    wrong = sample.given.predicted != sample.given.labels
    if len(np.unique(sample.patient[wrong])) >= _FEW_ERRORS:
        return ends
    rates = 1 - np.asarray(share(sample.by_patient(~wrong * 1.0), sample.by_patient(np.ones(len(wrong)))))
    at = np.stack([function(_with_error_rate(sample.given, wrong, rate)).reshape(-1) for rate in rates])
    low, high = np.fmin(ends[:, 0], at.min(0)), np.fmax(ends[:, 1], at.max(0))
    return np.where(np.isfinite(ends).all(1)[:, None], np.stack([low, high], 1), np.nan)


def _with_error_rate(given: Predictions, wrong: np.ndarray, rate: float) -> Predictions:
    """The predictions with errors weighed to be this share; where none was seen, with made ones: the predicted class
    changes places with another, each as likely."""
    if wrong.any():
        share = wrong.mean()
        return given.weighted(np.where(wrong, rate / share, (1 - rate) / max(1 - share, 1e-300))[None])
    rows, parts, weights = np.arange(len(wrong)), [given.logits], [np.full(len(wrong), 1 - rate)]
    for shift in range(1, given.classes):
        other = (given.predicted + shift) % given.classes
        swapped = given.logits.copy()
        swapped[rows, given.predicted] = given.logits[rows, other]
        swapped[rows, other] = given.logits[rows, given.predicted]
        parts.append(swapped)
        weights.append(np.full(len(wrong), rate / (given.classes - 1)))
    labels = np.tile(given.labels, given.classes)
    return Predictions(np.concatenate(parts), labels, np.concatenate(weights)[None])


def of_binned_gaps(gaps: Callable[[Predictions], np.ndarray], norm: int) -> Interval:
    """Interval of a calibration error: a norm of the bins' gaps, which noise makes larger than it is.

    The test is inverted along the ray of the gaps seen: a truth of `scale` times them is inside where the norm seen
    is no extreme one of `scale` times the gaps plus the noise of the draws. 0 is inside where noise alone would do.

    Args:
        gaps: predictions -> (N, bins) what each image adds to the gap of its bin.
        norm: 1 for ECE, 2 for the root of the mean square. For the latter each bin's gap counts over its share.
    """

    def interval(sample: Sample, function: Function, values: np.ndarray) -> np.ndarray:
        of_image = gaps(sample.given)
        shares = np.maximum((of_image != 0).mean(0), 1e-300)

        def size(sums: np.ndarray) -> Any:
            if norm == 1:
                return np.abs(sums).sum(-1)
            return np.sqrt((sums**2 / shares).sum(-1))

        seen = of_image.mean(0)
        noise = sample.drawn_sums(of_image) / len(of_image) - seen
        total = float(size(seen))

        def surplus(scale: float, share: float) -> float:
            return float(np.quantile(size(scale * seen + noise), share)) - total

        tail = (1 - LEVEL) / 2
        low, high = _crossing(lambda s: surplus(s, 1 - tail)), _crossing(lambda s: surplus(s, tail))
        # Gaps smaller than chance makes them: up to what is seen nothing is excluded.
        return _with_unseen_errors(sample, function, np.asarray([[low * total, (high or 1.0) * total]]))

    return interval


def _crossing(rising: Callable[[float], float], most: float = 4.0) -> float:
    """Where it crosses 0 between 0 and `most`; the end that is nearer where it does not."""
    if rising(0.0) >= 0:
        return 0.0
    return float(brentq(rising, 0.0, most, xtol=1e-3)) if rising(most) > 0 else most
