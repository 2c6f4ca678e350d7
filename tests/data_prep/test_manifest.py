"""The fingerprint follows everything that a result depends on, and nothing else."""

import dataclasses

import pytest

from data_prep.manifest import Row, fingerprint

ROWS = [
    Row(
        file=f"{i}.png",
        label=("healthy", "osteopenia")[i % 2],
        patient_id=f"p{i}",
        group=f"g{i}",
        split=("train", "test")[i % 2],
        id=f"{i:016x}",
        sha256=f"{i:064x}",
        pixels=f"{i + 9:064x}",
        width=100,
        height=120,
        bits=8,
        sigma=4.0,
        noise_warnings=("clipped",),
        notes=("a note",),
        metadata={"age": "60"},
    )
    for i in range(4)
]
CLASSES = ("healthy", "osteopenia")
FIRST = fingerprint(ROWS, "{}", CLASSES)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"pixels": "f" * 64},
        {"label": "osteopenia"},
        {"patient_id": "p1"},
        {"group": "g1"},
        {"split": "val"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_counts(change):
    assert fingerprint([dataclasses.replace(ROWS[0], **change), *ROWS[1:]], "{}", CLASSES) != FIRST


def test_what_counts_of_all_images_together():
    assert fingerprint(ROWS[:-1], "{}", CLASSES) != FIRST
    assert fingerprint([*ROWS, ROWS[0]], "{}", CLASSES) != FIRST
    assert fingerprint(ROWS, '{"sigma": 1}', CLASSES) != FIRST
    assert fingerprint(ROWS, "{}", CLASSES[::-1]) != FIRST


@pytest.mark.parametrize(
    "change",
    [{"file": "x/9.png"}, {"sigma": 5.0}, {"notes": ()}, {"metadata": {}}],
    ids=lambda c: next(iter(c)),
)
def test_what_does_not(change):
    assert fingerprint([dataclasses.replace(row, **change) for row in ROWS], "{}", CLASSES) == FIRST
    assert fingerprint(ROWS[::-1], "{}", CLASSES) == FIRST
