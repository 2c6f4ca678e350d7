"""A prepared dataset of generated images, and a config of a run that takes seconds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from data_prep.preprocess import PreprocessSpec
from data_prep.shards import Example, write_shards

from osteojax import config as configs

sys.path.insert(0, str(Path(__file__).parent))
import tiny

tiny.register()

CLASSES = ("healthy", "osteopenia", "osteoporosis")
SIZE = 32


def generated_image(example: Example) -> np.ndarray:
    """Stripes whose spacing tells the class, under noise: learnable, but not by the mean."""
    rng = np.random.default_rng(int(example.id, 16))
    period = 3 + 3 * CLASSES.index(example.label)
    stripes = 0.5 + 0.3 * np.sin(2 * np.pi * (np.arange(SIZE) + rng.uniform(0, period)) / period)
    image = stripes[None, :] + rng.normal(0, 0.1, (SIZE, SIZE))
    return np.clip(np.round(image * 4096) / 4096, 0, 1).astype(np.float32)[..., None]


def write_dataset(out, counts, seed=0):
    """A dataset with the given number of examples in each split, two images a patient."""
    serial = iter(range(10_000))
    splits = {}
    for split, count in counts.items():
        examples = []
        for i in range(count):
            k = next(serial)
            patient = f"{split}-{i // 2}"
            examples.append(
                Example(f"{k + 10_000 * seed:016x}", f"{k}.png", CLASSES[i // 2 % 3], patient, patient)
            )
        splits[split] = examples
    write_shards(
        out,
        splits,
        generated_image,
        image_size=SIZE,
        class_names=CLASSES,
        description={
            "preprocess": PreprocessSpec(image_size=SIZE).to_json(),
            "class_names": list(CLASSES),
            "fingerprint": f"generated-{seed}",
            "seed": seed,
        },
    )
    return out


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Three splits whose sizes no batch size divides."""
    return write_dataset(tmp_path_factory.mktemp("prepared") / "data", {"train": 22, "val": 7, "test": 11})


@pytest.fixture
def quick(prepared):
    """A run of six steps on `prepared`: two epochs of three batches, the last of them uneven."""
    config = configs.load("configs/paper_resnet50.py")
    config.update(init="random", epochs=2.0, log_every=2)
    config.model.name = "tiny"
    config.data.update(dir=str(prepared), batch_size=8)
    config.eval.batch_size = 4
    config.groups = "all"
    config.optimizer.learning_rate = 1e-3
    config.mesh.data = 1
    return config
