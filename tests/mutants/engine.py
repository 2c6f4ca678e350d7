"""Faults of training, metrics and evaluation."""

from tests.mutants.mutant import Mutant

ENGINE: tuple[Mutant, ...] = (
    Mutant(
        "a 90 % interval",
        "osteojax/metrics/bootstrap.py",
        "LEVEL = 0.95",
        "LEVEL = 0.90",
        ("tests/osteojax/metrics/test_score.py",),
    ),
    Mutant(
        "the bootstrap's seed ignored",
        "osteojax/metrics/bootstrap.py",
        "np.random.default_rng(seed)",
        "np.random.default_rng(0)",
        ("tests/osteojax/metrics/test_score.py",),
    ),
)
