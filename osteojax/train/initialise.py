"""From a config to a model with its starting weights, and the honest word on where they came from."""

import logging
from typing import Any

import ml_collections
from flax import nnx

from osteojax import weights
from osteojax.errors import UserError
from osteojax.models.build import build

log = logging.getLogger(__name__)

POLICIES = ("imagenet", "imagenet_or_random", "random")


def initialise(
    config: ml_collections.ConfigDict, classes: int, devices: int
) -> tuple[nnx.Module, dict[str, Any]]:
    """The model at step 0 and the record of its origin: `architecture`, `init` and, where there are some, `weights`.

    `config.init` is a policy: `imagenet` insists on pretrained weights; `imagenet_or_random` falls back first on
    `config.model.fallback` (another architecture, with its default weights) and then on random ones; `random`.

    Raises:
        UserError: an unknown policy, or `imagenet` and the weights cannot be had.
    """
    if config.init not in POLICIES:
        raise UserError(f"init={config.init!r} is not one of {', '.join(POLICIES)}")
    architecture = config.model.name
    if config.init == "random":
        return build(config, architecture, classes, devices), {"architecture": architecture, "init": "random"}

    candidates = [architecture]
    if config.init == "imagenet_or_random" and config.model.fallback and not config.weights:
        candidates.append(config.model.fallback)
    for name in candidates:
        try:
            found = weights.load(config.weights or "imagenet", name)
        except UserError as error:
            # Weights that were named are wanted, whatever the policy.
            if config.init == "imagenet" or config.weights:
                raise
            log.warning("no ImageNet weights for %s: %s", name, error)
            continue
        model = build(config, name, classes, devices)
        weights.apply(model, found, head="reset")
        log.info("%s starts from ImageNet weights: %s", name, found.provenance["source"])
        return model, {"architecture": name, "init": "imagenet", "weights": found.provenance}
    log.warning("%s starts from RANDOM weights: this is not transfer learning", architecture)
    return build(config, architecture, classes, devices), {"architecture": architecture, "init": "random"}
