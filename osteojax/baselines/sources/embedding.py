"""The features before the last layer of a network that saw none of these images."""

import dataclasses

import jax
import ml_collections
import numpy as np

from osteojax import config as configs
from osteojax.baselines.sources.registry import SOURCES, Table, table
from osteojax.data.dataset import Examples
from osteojax.errors import UserError
from osteojax.models.network import Network
from osteojax.train import transfer
from osteojax.train.experiment import read_experiment
from osteojax.train.initialise import initialise

_ROWS = 32


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The network: `model`, `init`, `weights` and `seed` of an experiment's config.

    Attributes:
        config: file of the experiment.
        weights: as the experiment's; its own where empty.
        init: as the experiment's; its own where empty.
    """

    config: str = "configs/train/probe_resnet50.py"
    weights: str = ""
    init: str = ""


@SOURCES.function("embedding", settings=Embedding)
def embedding(examples: Examples, settings: Embedding) -> Table:
    """Features (N, F) of the images before the network's last layer, in inference mode.

    Raises:
        UserError: the config or its weights cannot be had, the weights are a run's, which may have learned from what is
            tested here, or the network's head does not tell what its last layer takes.
    """
    config: ml_collections.ConfigDict = configs.load(settings.config)
    for key in ("weights", "init"):
        if getattr(settings, key):
            config[key] = getattr(settings, key)
    experiment = read_experiment(config)
    if transfer.is_run(experiment.weights):
        raise UserError(
            f"weights={experiment.weights!r} is a run, which may have learned from what is tested here; name published "
            "weights, and compare runs with osteojax compare"
        )
    model, origin = initialise(experiment, classes=3, devices=1)
    network = Network(model)
    if not network.gives_pre_logits:
        raise UserError(
            f"the head of {origin['architecture']} does not tell what its last layer takes; choose another model in "
            f"{settings.config}"
        )
    params, stats = jax.device_put(network.init(), jax.local_devices()[0])
    features = jax.jit(network.pre_logits_function())
    found = []
    for first in range(0, len(examples), _ROWS):
        places = range(first, min(first + _ROWS, len(examples)))
        images, _ = examples.read(places)
        # One shape, one compilation.
        padded = np.concatenate([images, np.zeros((_ROWS - len(images), *images.shape[1:]), images.dtype)])
        found.append(np.asarray(features(params, stats, padded), np.float64)[: len(images)])
    values = np.concatenate(found).reshape(len(examples), -1)
    names = tuple(f"feature {k}" for k in range(values.shape[1]))
    return table(names, values, **origin)
