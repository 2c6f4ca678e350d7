"""A network of a few thousand parameters, a generated dataset and a config: runs that take seconds.

Run as a script it is the console script with that network in the registry, for tests that need a process.
"""

import dataclasses

import numpy as np

from data_prep.preprocess import PreprocessSpec
from data_prep.shards import Example, write_shards
from osteojax import config as configs
from osteojax import models
from osteojax.models.backbone import Backbone, PoolHead, Stage
from osteojax.models.registry import ARCHITECTURES, architecture
from osteojax.models.resnet import BasicBlock
from osteojax.models.stem import Stem


def tiny(arch, classes, *, image, options, rngs):
    """One basic block a stage, eight channels everywhere behind the stem."""
    stem = Stem(image=image, options=options, rngs=rngs)
    widths = (64, 8, 8, 8, 8)
    stages = [
        Stage([BasicBlock(widths[i], widths[i + 1], 1 + (i == 3), v1=False, options=options, rngs=rngs)])
        for i in range(4)
    ]
    return Backbone(arch, stem, stages, PoolHead(8, classes, rngs=rngs))


def register():
    """Adds the architecture `tiny`, once however often this module is imported."""
    if "tiny" not in ARCHITECTURES:
        architecture("tiny")(tiny)


SHIPPED = [name for name in models.classifiers() if name != "tiny"]
"""The classifiers that users have: `tiny` is registered by tests."""
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
    return write_examples(out, splits, f"generated-{seed}")


def write_examples(out, splits, fingerprint="generated"):
    """A dataset of given examples."""
    write_shards(
        out,
        splits,
        generated_image,
        image_size=SIZE,
        class_names=CLASSES,
        description={
            "preprocessing": dataclasses.asdict(PreprocessSpec(image_size=SIZE)),
            "class_names": list(CLASSES),
            "fingerprint": fingerprint,
            "seed": 0,
        },
    )
    return out


def quick_config(data_dir):
    """Six steps: two epochs of three batches, the last of them uneven."""
    config = configs.load("configs/train/paper_resnet50.py")
    config.update(init="random", epochs=2.0, log_every=2)
    config.model.update(name="tiny", conv_impl="native")
    config.data.update(dir=str(data_dir), batch_size=8)
    config.eval.batch_size = 4
    config.preset = "all"
    config.optimizer.learning_rate = 1e-3
    config.mesh.data = 1
    return config


def write_config(path, config):
    """A config file that gives this config, for the command line."""
    text = repr(configs.to_json(config))
    path.write_text(
        f"from osteojax import config\n\ndef get_config():\n    return config.from_json({text})\n"
    )
    return path


register()

if __name__ == "__main__":
    import os

    from osteojax.cli.main import main
    from osteojax.run import workdir

    if "OSTEOJAX_TEST_SECONDS_A_BATCH" in os.environ:
        import time

        from osteojax.train import loop

        class Slow:
            def __init__(self, iterator):
                self._iterator = iterator

            def __next__(self):
                time.sleep(float(os.environ["OSTEOJAX_TEST_SECONDS_A_BATCH"]))
                return next(self._iterator)

            def __getattr__(self, name):
                return getattr(self._iterator, name)

        quick_iterator = loop.train_iterator
        loop.train_iterator = lambda *arguments, **keywords: Slow(quick_iterator(*arguments, **keywords))

    if "OSTEOJAX_TEST_FAIL_AT" in os.environ:
        from osteojax.train import loop

        original, calls = loop.to_devices, iter(range(10**6))

        def failing(batch, sharding):
            if "label" in batch and next(calls) == int(os.environ["OSTEOJAX_TEST_FAIL_AT"]):
                raise RuntimeError("told to")
            return original(batch, sharding)

        loop.to_devices = failing

    if "OSTEOJAX_TEST_CACHE_OF_ITS_OWN" in os.environ:
        import sys

        number = next(flag.split("=")[1] for flag in sys.argv if flag.startswith("--process_id="))
        os.environ["OSTEOJAX_CACHE"] = f"{os.environ['OSTEOJAX_TEST_CACHE_OF_ITS_OWN']}/host{number}"

    if "OSTEOJAX_TEST_BUCKET" in os.environ:
        from osteojax import storage

        storage._spec = lambda *_: {"driver": "file", "path": os.environ["OSTEOJAX_TEST_BUCKET"] + "/"}

    if "OSTEOJAX_TEST_SMALLEST_SPLIT" in os.environ:
        from osteojax.devices import mesh

        mesh.SMALLEST_SPLIT = int(os.environ["OSTEOJAX_TEST_SMALLEST_SPLIT"])

    workdir._SECONDS_TO_APPEAR = float(os.environ.get("OSTEOJAX_TEST_SECONDS_TO_APPEAR", "30"))

    main()
