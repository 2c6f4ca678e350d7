"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391)."""

from jaxtyping import Array, Float, Int

from osteojax.explain.maps import activations_and_gradient, class_activation_map
from osteojax.explain.registry import explainer
from osteojax.models.network import Cut, Flat
from osteojax.registry import NoSettings


@explainer("grad_cam")
def grad_cam(
    cut: Cut,
    params: Flat,
    stats: Flat,
    image: Float[Array, "batch height width channels"],
    label: Int[Array, " batch"],
    settings: NoSettings,
) -> Float[Array, "batch height width"]:
    """Channels weighted by the spatial mean of their gradient (equation 1), summed, negative parts cut off (2).

    At least 0, in units of the logit times the positions of the cut. A map is as coarse as the cut: 1/32 of the image
    behind `stage4`, 1/16 of it behind `stage3` of a plain vision transformer.
    """
    del settings
    activations, gradient = activations_and_gradient(cut, params, stats, image, label)
    return class_activation_map(activations, gradient.mean((1, 2)), image)
