"""From a config to a model with its starting weights, and the honest word on where they came from."""

import logging
from typing import Any

from osteojax import weights
from osteojax.errors import UserError
from osteojax.models.backbone import Backbone
from osteojax.models.build import build
from osteojax.train.experiment import Experiment

log = logging.getLogger(__name__)


def initialise(
    experiment: Experiment,
    classes: int,
    devices: int,
    of_run: weights.WeightsFile | None = None,
    *,
    inputs: int = 0,
) -> tuple[Backbone, dict[str, Any]]:
    """The model at step 0 and the record of its origin: `architecture`, `init` and, where there are some, `weights`.

    `init` is a policy: `imagenet` insists on pretrained weights; `imagenet_or_random` falls back first on
    `model.fallback` (another architecture, with its default weights) and then on random ones; `random`.

    Args:
        experiment: read are `init`, `weights`, `model`, `seed` and `transfer`.
        classes: of the dataset.
        devices: of the mesh.
        of_run: weights of a run of ours, which need no policy; `init` is then recorded as "run".
        inputs: numbers that the columns of `model.covariates` become.

    Raises:
        UserError: `imagenet`, or weights were named, and they cannot be had.
    """

    def random(name: str) -> Backbone:
        seed = experiment.seed
        return build(experiment.model, name, classes, seed=seed, devices=devices, inputs=inputs)

    architecture, policy = experiment.model.name, experiment.init
    if of_run is not None:
        model = random(architecture)
        weights.apply(model, of_run, head=experiment.transfer.head)
        log.info("%s starts from the weights of the run %s", architecture, of_run.provenance["source"])
        return model, {"architecture": architecture, "init": "run", "weights": dict(of_run.provenance)}
    if policy == "random":
        return random(architecture), {"architecture": architecture, "init": "random"}

    candidates = [architecture]
    if policy == "imagenet_or_random" and experiment.model.fallback and not experiment.weights:
        candidates.append(experiment.model.fallback)
    for name in candidates:
        try:
            found = weights.load(experiment.weights or "imagenet", name)
        except UserError as error:
            # Weights that were named are wanted, whatever the policy.
            if policy == "imagenet" or experiment.weights:
                raise
            log.warning("no ImageNet weights for %s: %s", name, error)
            continue
        model = random(name)
        weights.apply(model, found, head="reset")
        log.info("%s starts from ImageNet weights: %s", name, found.provenance["source"])
        return model, {"architecture": name, "init": "imagenet", "weights": found.provenance}
    log.warning("%s starts from RANDOM weights: this is not transfer learning", architecture)
    return random(architecture), {"architecture": architecture, "init": "random"}
