"""Regenerates the Keras goldens: `python tests/goldens/make_keras_goldens.py` where Keras 3 and JAX are
installed.

`keras.applications.ResNet50` itself, with weights made by `seeded.py`, on images that Keras's own
`preprocess_input` prepares. Also one small model as `model.save` writes it, to prove the reader against a
real file.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import seeded  # noqa: E402


def resnet50() -> dict[str, np.ndarray]:
    network = keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=(64, 64, 3))
    names = []
    for layer in network.layers:
        keys = [f"{layer.name}/{variable.path.rsplit('/', 1)[-1]}" for variable in layer.variables]
        shapes = [tuple(variable.shape) for variable in layer.variables]
        layer.set_weights([seeded.keras_tensor(k, s) for k, s in zip(keys, shapes, strict=True)])
        names += [f"{key} {shape}" for key, shape in zip(keys, shapes, strict=True)]
    blocks = {"stem": "pool1_pool", "head": "predictions"}
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for position in range(depth):
            blocks[f"stage{stage}/{position}"] = f"conv{stage + 1}_block{position + 1}_out"
    parts = keras.Model(network.input, [network.get_layer(layer).output for layer in blocks.values()])
    x = keras.applications.resnet.preprocess_input(255 * seeded.images())
    goldens = {"keys": np.array(sorted(names))}
    for block, output in zip(blocks, parts.predict(x, verbose=0), strict=True):
        goldens[f"eval:{block}"] = seeded.summary(np.asarray(output))
    return goldens


def small_file() -> None:
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(2, 3, name="first"),
            keras.layers.BatchNormalization(name="norm"),
        ]
    )
    for layer in network.layers:
        layer.set_weights(
            [seeded.keras_tensor(f"{layer.name}/{v.name}", tuple(v.shape)) for v in layer.variables]
        )
    network.save(HERE / "keras_small.h5")


if __name__ == "__main__":
    small_file()
    np.savez_compressed(HERE / "keras_resnet50.npz", **resnet50())
