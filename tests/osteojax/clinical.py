"""A generated dataset with columns: age and sex, which say something of the class, and a T-score, which decides it."""

import numpy as np
import small

from data_prep.shards import Example

AGES = (52.0, 60.0, 68.0)


def examples(split, count, seed=0):
    """Two images a patient; a sixth of the ages, sexes and T-scores are missing."""
    rng = np.random.default_rng([seed, *split.encode()])
    found = []
    for patient in range(count // 2):
        k = patient % 3
        known = {
            "age": f"{AGES[k] + rng.normal(0, 6):.1f}",
            "sex": "F" if rng.uniform() < (0.3, 0.5, 0.7)[k] else "M",
            "t_score": f"{(-0.2, -1.7, -3.2)[k] + rng.uniform(-0.6, 0.6):.2f}",
        }
        known = {name: value for name, value in known.items() if rng.uniform() > 1 / 6}
        for view in range(2):
            name, where = f"{split}-{patient}", len(found)
            number = int.from_bytes(split.encode()[:3], "big") * 1000 + where
            found.append(Example(f"{number:016x}", f"{name}-{view}.png", small.CLASSES[k], name, name, known))
    return found


def write_dataset(out):
    """48 training, 12 validation and 12 test images."""
    return small.write_examples(out, {split: examples(split, n) for split, n in COUNTS.items()})


COUNTS = {"train": 48, "val": 12, "test": 12}


def quick_config(data_dir, **model):
    """Twelve steps of the head and the last stage."""
    config = small.quick_config(data_dir)
    config.model.update(model)
    config.data.batch_size = 16
    config.epochs = 4.0
    config.preset = "stage4"
    config.optimizer.learning_rate = 1e-2
    return config
