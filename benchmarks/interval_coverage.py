"""How often each interval of metrics.json holds the truth, beside the plain percentile bootstrap over patients.

    python benchmarks/interval_coverage.py [--samples=400] [--draws=400] [--patients 20 60 200 1000] [--processes=2]

Patients of three classes with one image each, or one to four; the logits of a patient's images share half their
variance. Six qualities of a classifier, from an area under the ROC curve of 0.6 to a sensitivity of 0.99; its
probabilities are overconfident (logits 1.5 times the true ones), so that calibration errors have a truth above 0. The
truth is that of 400,000 patients. Prints Markdown: for each metric and number of patients the lowest, mean and highest
coverage over the qualities and both numbers of images, and the mean width.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS
from osteojax.metrics.sample import Sample
from osteojax.metrics.score import score_sample

CLASSES, SHARED, OVERCONFIDENCE = 3, 0.5, 1.5
# What it gives -> signal.
SIGNALS = {
    "AUC 0.60": 0.30,
    "recall 0.50": 0.56,
    "AUC 0.80": 0.95,
    "AUC 0.95": 1.83,
    "recall 0.90": 2.25,
    "recall 0.99": 3.6,
}


def simulate(rng, patients, images, signal):
    """Logits, labels and patient of each image."""
    count = rng.integers(1, images + 1, patients)
    patient = np.repeat(np.arange(patients), count)
    label = rng.integers(0, CLASSES, patients)[patient]
    noise = np.sqrt(SHARED) * rng.normal(size=(patients, CLASSES))[patient]
    noise += np.sqrt(1 - SHARED) * rng.normal(size=(len(patient), CLASSES))
    evidence = signal * np.eye(CLASSES)[label] + noise
    return OVERCONFIDENCE * signal * evidence, label, patient


def first(values):
    """Of a metric by class, that of the first class: the classes are alike."""
    return float(np.ravel(values[0])[0])


def cell(task):
    """Coverage and width of every metric's interval over many samples of one kind."""
    signal, patients, images, samples, draws, truth = task
    rng = np.random.default_rng([int(1000 * signal), patients, images])
    found = {name: [] for name in METRICS}
    for seed in range(samples):
        logits, labels, patient = simulate(rng, patients, images, signal)
        sample = Sample(Predictions.unweighted(logits, labels), patient, seed)
        weights = np.concatenate(list(sample.draws(draws)))[:, patient]
        drawn = sample.given.weighted(weights)
        for name, metric in METRICS.members.items():
            values = np.ravel(metric.function(sample.given)[0])
            if not np.isfinite(values[0]):
                continue
            low, high = metric.interval(sample, metric.function, values)[0]
            if not np.isfinite(low):
                continue
            of_draws = metric.function(drawn).reshape(draws, -1)[:, 0]
            plain = np.nanpercentile(of_draws, [2.5, 97.5]) if np.isfinite(of_draws).any() else (np.nan,) * 2
            found[name].append(
                (
                    low <= truth[name] <= high,
                    high - low,
                    plain[0] <= truth[name] <= plain[1],
                    plain[1] - plain[0],
                )
            )
    return patients, images, signal, {name: np.mean(rows, axis=0) for name, rows in found.items() if rows}


def main():
    """Runs all cells and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 60, 200, 1000])
    parser.add_argument("--metrics", nargs="+", default=None)
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    for name in list(METRICS.members):
        if arguments.metrics and name not in arguments.metrics:
            METRICS._members.pop(name)

    tasks = []
    for name in arguments.signals:
        signal = SIGNALS[name]
        logits, labels, _ = simulate(np.random.default_rng(0), 400_000, 1, signal)
        given = Predictions.unweighted(logits, labels)
        truth = {name: first(metric.function(given)) for name, metric in METRICS.members.items()}
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in truth.items()), flush=True)
        for patients in arguments.patients:
            samples = arguments.samples if patients < 1000 else max(arguments.samples // 4, 1)
            tasks += [(signal, patients, images, samples, arguments.draws, truth) for images in (1, 4)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        cells = list(pool.map(cell, tasks))

    print("\n| metric | patients | ours: lowest, mean, highest | percentile bootstrap | width, ours / its |")
    print("|---|---|---|---|---|")
    for name in METRICS:
        for patients in arguments.patients:
            rows = np.asarray([found[name] for n, _, _, found in cells if n == patients and name in found])
            ours, plain = 100 * rows[:, 0], 100 * rows[:, 2]
            print(
                f"| {name} | {patients} | {ours.min():.0f}, **{ours.mean():.1f}**, {ours.max():.0f} "
                f"| {plain.min():.0f}, {plain.mean():.1f}, {plain.max():.0f} "
                f"| {rows[:, 1].mean():.3f} / {np.nanmean(rows[:, 3]):.3f} |"
            )
    print("\nall metrics of 1,000 patients, {} images: {:.1f} s".format(*seconds()))


def seconds(patients=1000):
    """How long all metrics of a large sample take, with their intervals."""
    logits, labels, patient = simulate(np.random.default_rng(0), patients, 4, SIGNALS["AUC 0.95"])
    start = time.perf_counter()
    score_sample(Sample(Predictions.unweighted(logits, labels), patient), ["a", "b", "c"])
    return len(labels), time.perf_counter() - start


if __name__ == "__main__":
    main()
