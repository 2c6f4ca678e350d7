"""What the explainers share: the score they explain, the activations at the cut, maps at the image's size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.models.network import Cut, Flat


def class_logit(logits: Float[Array, "batch classes"], label: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The logit of each image's class: what all maps explain. Softmax would mix in the evidence against the others."""
    return jnp.take_along_axis(logits, label[:, None], axis=-1)[:, 0]


def activations_and_gradient(
    cut: Cut,
    params: Flat,
    stats: Flat,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
) -> tuple[Float[Array, "batch h w c"], Float[Array, "batch h w c"]]:
    """Activations at the cut and the class logit's gradient by them, both (B, h, w, c) float32.

    No image's logits depend on another's in inference mode, so the gradient of their sum holds that of each.
    """
    activations = cut.features(params, stats, image)

    def total(h: jax.Array) -> jax.Array:
        return class_logit(cut.from_features(params, stats, h), label).sum()

    gradient = jax.grad(total)(activations)
    activations, gradient = cut.by_place(activations, image), cut.by_place(gradient, image)
    return activations.astype(jnp.float32), gradient.astype(jnp.float32)


def class_activation_map(
    activations: Float[Array, "batch h w c"],
    weights: Float[Array, "batch c"],
    image: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width"]:
    """relu(sum of weighted channels), enlarged to the image by bilinear interpolation."""
    coarse = jax.nn.relu(jnp.einsum("bhwc,bc->bhw", activations, weights))
    return jax.image.resize(coarse, image.shape[:3], "bilinear")
