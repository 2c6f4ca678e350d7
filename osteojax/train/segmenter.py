"""A segmenter from images and labels: its config, its loss and its optimizer; `osteojax.train.fit` does the rest."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from osteojax.config import AtLeastOne, NotNegative, Positive
from osteojax.train.experiment import MeshSection, Seed


@dataclasses.dataclass(frozen=True)
class SegmenterSettings:
    """What a segmenter's training can be told; `configs/segmenters/unet.py` holds the meaning of each."""

    seed: Annotated[int, Seed] = 0
    init: str = ""
    legs: Annotated[int, AtLeastOne] = 96
    steps: Annotated[int, AtLeastOne] = 1200
    batch_size: Annotated[int, AtLeastOne] = 8
    learning_rate: Annotated[float, Positive] = 2e-3
    warmup_steps: Annotated[int, NotNegative] = 100
    weight_decay: Annotated[float, NotNegative] = 1e-4
    dice: Annotated[float, NotNegative] = 1.0
    checkpoint_every: Annotated[int, AtLeastOne] = 200
    log_every: Annotated[int, AtLeastOne] = 50
    mesh: MeshSection = dataclasses.field(default_factory=MeshSection)


def make_optimizer(settings: SegmenterSettings) -> optax.GradientTransformation:
    """AdamW, the learning rate rising along a line and falling along a half cosine; vectors do not decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        settings.learning_rate,
        min(settings.warmup_steps, settings.steps - 1),
        settings.steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def segmentation_loss(
    model: Any, batch: Mapping[str, jax.Array], key: jax.Array, *, dice: float = 1.0
) -> jax.Array:
    """Cross-entropy of all pixels, plus `dice` x (1 - the mean soft Dice of all classes but the background, the first).

    Dice, with squares below (Milletari et al. 2016, arXiv:1606.04797, section 3), is of all pixels of the batch: a
    joint space is 2 % of them, and would hardly count otherwise. It also counts a pixel the more the smaller its
    class is, so that where joint space and bone are as likely, the joint space is favoured: cross-entropy is not.

    Args:
        model: images -> logits (B, H, W, classes).
        batch: `image` (B, H, W, 1) float32 in [0, 1] and `label` (B, H, W), the number of each pixel's class.
        key: unused; nothing is drawn.
        dice: weight of the second term.
    """
    del key
    logits = model(batch["image"])
    truth = jax.nn.one_hot(batch["label"], logits.shape[-1])
    entropy = jnp.mean(optax.softmax_cross_entropy(logits, truth))
    p = jax.nn.softmax(logits)
    both = jnp.sum(p * truth, (0, 1, 2))[1:]
    each = jnp.sum(jnp.square(p) + truth, (0, 1, 2))[1:]
    return entropy + dice * (1 - jnp.mean(2 * both / jnp.maximum(each, 1.0)))
