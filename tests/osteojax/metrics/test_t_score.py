"""Errors of T-scores, against NumPy and Student's interval."""

import numpy as np
import pytest
from scipy.stats import t as student

from osteojax.metrics.t_score import score_t_scores

RNG = np.random.default_rng(0)
MEASURED = RNG.normal(-1.5, 1, 40)
PREDICTED = MEASURED + RNG.normal(0.3, 0.8, 40)


def test_errors_are_means_over_what_was_measured_and_the_bias_has_students_interval():
    measured = np.append(MEASURED, [np.nan] * 3)
    predicted = np.append(PREDICTED, [100.0] * 3)
    found = score_t_scores(predicted, measured, [f"p{k}" for k in range(43)])
    error = PREDICTED - MEASURED
    assert found["n"] == 40
    assert found["mae"]["value"] == pytest.approx(np.abs(error).mean())
    assert found["bias"]["value"] == pytest.approx(error.mean())
    expected = student.interval(0.95, 39, error.mean(), error.std(ddof=1) / np.sqrt(40))
    np.testing.assert_allclose(found["bias"]["ci95"], expected, rtol=1e-9)
    low, high = found["mae"]["ci95"]
    # On the logarithm's scale: ends are as far from the value by ratio.
    assert low * high == pytest.approx(found["mae"]["value"] ** 2)
    half = student.ppf(0.975, 39) * np.abs(error).std(ddof=1) / np.sqrt(40)
    assert np.log(high / low) == pytest.approx(2 * half / found["mae"]["value"])


def test_two_images_of_a_patient_are_no_two_patients():
    twice = lambda x: np.repeat(x, 2)  # noqa: E731
    one = score_t_scores(PREDICTED, MEASURED, [f"p{k}" for k in range(40)])
    two = score_t_scores(twice(PREDICTED), twice(MEASURED), [f"p{k // 2}" for k in range(80)])
    assert two["n"] == 80
    np.testing.assert_allclose(two["mae"]["ci95"], one["mae"]["ci95"], rtol=1e-9)


def test_nothing_measured_and_one_patient_have_no_interval():
    nothing = score_t_scores(PREDICTED, np.full(40, np.nan), ["p"] * 40)
    assert nothing == {
        "n": 0,
        "mae": {"value": None, "ci95": [None, None]},
        "bias": {"value": None, "ci95": [None, None]},
    }
    alone = score_t_scores(PREDICTED, MEASURED, ["p"] * 40)
    assert alone["mae"]["value"] > 0 and alone["mae"]["ci95"] == [None, None]
