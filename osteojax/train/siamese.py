"""SimSiam: two augmented views of an image are to predict one another (Chen and He 2021, arXiv:2011.10566).

No labels, no negative pairs, no momentum encoder: what keeps all images from one embedding is that no gradient flows
into the embedding that is predicted. Whether it is kept is watched, as in the paper's figure 2: the standard deviation
of the normalised embeddings is 0 where they are all one, and 1 / sqrt(d) where they point everywhere alike.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from osteojax.models.network import Flat
from osteojax.train import augment

log = logging.getLogger(__name__)

# Below this share of 1 / sqrt(d) it is told. In the paper's figure 2 runs stay above a half of it, or fall to 0.
_COLLAPSED = 0.25


def two_views(key: jax.Array, image: jax.Array, augmentations: augment.Chain) -> jax.Array:
    """Each image (B, H, W, C) augmented twice: (B, 2, H, W, C), a pure function of the key and the row."""
    views = [augment.apply(jax.random.fold_in(key, view), image, augmentations) for view in range(2)]
    return jnp.stack(views, axis=1)


def similarity_loss(outputs: tuple[jax.Array, jax.Array]) -> jax.Array:
    """(B,) in [-1, 1]: D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2 (eq. 4), D the negative cosine (eq. 1).

    Args:
        outputs: of the first and of the second view, p and z side by side, (B, 2 d) float32.
    """
    (p1, z1), (p2, z2) = (jnp.split(output, 2, axis=-1) for output in outputs)
    return (_distance(p1, jax.lax.stop_gradient(z2)) + _distance(p2, jax.lax.stop_gradient(z1))) / 2


def _distance(p: jax.Array, z: jax.Array) -> jax.Array:
    return -jnp.sum(_normalised(p) * _normalised(z), axis=-1)


def _normalised(x: jax.Array) -> jax.Array:
    # The root of a sum that may be 0 has no gradient there.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def loss_of(
    apply: Callable[..., tuple[jax.Array, Flat]],
    params: Flat,
    stats: Flat,
    views: jax.Array,
    mask: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, Flat]]:
    """The mean loss of the rows that count, the embeddings (B, 2 d) of both views side by side, the new statistics.

    Batch norm sees one view after the other, each with statistics of its own.
    """
    outputs = []
    for view, view_key in enumerate(jax.random.split(key)):
        output, stats = apply(params, stats, views[:, view], mask, view_key)
        outputs.append(output)
    first, second = outputs
    loss = jnp.sum(similarity_loss((first, second)) * mask) / jnp.sum(mask)
    embeddings = [jnp.split(output, 2, axis=-1)[1] for output in outputs]
    return loss, (jnp.concatenate(embeddings, axis=-1), stats)


def embedding_metrics(embeddings: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """`embedding_std` of the normalised embeddings, and `healthy_std`, what it is where they point everywhere alike.

    Args:
        embeddings: of both views, (B, 2 d).
        mask: (B,) of 0 and 1.
    """
    z = jnp.stack([_normalised(view) for view in jnp.split(embeddings, 2, axis=-1)])
    weight = (mask / jnp.sum(mask))[:, None]
    mean = jnp.sum(z * weight, axis=1, keepdims=True)
    std = jnp.sqrt(jnp.sum(jnp.square(z - mean) * weight, axis=1))
    return {"embedding_std": jnp.mean(std), "healthy_std": jnp.asarray(z.shape[-1] ** -0.5, jnp.float32)}


def tell_collapse(metrics: Mapping[str, Any], step: int) -> None:
    """Warns where the embeddings have become one; silent for a run that has none."""
    if "embedding_std" not in metrics:
        return
    std, healthy = metrics["embedding_std"], metrics["healthy_std"]
    if std < _COLLAPSED * healthy:
        log.warning(
            "step %d: the embeddings collapse, their standard deviation is %.2g where %.2g is healthy; lower "
            "optimizer.learning_rate, raise data.batch_size, or augment more",
            step,
            std,
            healthy,
        )
