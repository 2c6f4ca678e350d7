"""Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from osteojax.explain.maps import activations_and_gradient, class_activation_map
from osteojax.explain.registry import explainer
from osteojax.models.network import Cut, Flat
from osteojax.registry import NoSettings


@explainer("grad_cam++")
def grad_cam_plus_plus(
    cut: Cut,
    params: Flat,
    stats: Flat,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    settings: NoSettings,
) -> Float[Array, "batch height width"]:
    """Grad-CAM whose channels are weighted by their positive gradients, each divided as equation 19 says.

    At least 0. The score is exp(logit), as in the paper's derivation, but for its own value: that is a factor of the
    whole map, and overflows. Like the paper's, the higher derivatives are those of a network that is piecewise linear
    behind the cut, and activations are at least 0 there: behind `stage4` they are where it ends in ReLU or ReLU6
    (ResNet, VGG, DenseNet, MobileNetV2, EfficientNet-Lite0). Elsewhere the map may be 0 everywhere.
    """
    del settings
    activations, gradient = activations_and_gradient(cut, params, stats, image, label)
    # g^2 / (2 g^2 + sum(A) g^3), with g^2 cancelled so that small gradients do not vanish when squared.
    divisor = 2 + activations.sum((1, 2), keepdims=True) * gradient
    weights = jnp.where(divisor == 0, 0, jax.nn.relu(gradient) / divisor)
    return class_activation_map(activations, weights.sum((1, 2)), image)
