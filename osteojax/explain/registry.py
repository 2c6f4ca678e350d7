"""What an explainer is, and the registry of them."""

from collections.abc import Callable

import jax

from osteojax.registry import Functions, NoSettings

# `f(cut, params, stats, image, label, settings) -> map`, compiled once for each (cut, settings) and shape.
#   cut: of `Network.cut`; a class activation map is one of the activations there, the others do not care.
#   params, stats: path -> array.
#   image: (B, H, W, C) float32 in [0, 1].
#   label: (B,) int, the class to explain of each image.
#   map: (B, H, W) float32; where it is positive, the pixel speaks for the class. An image's does not depend on the rest
#       of its batch.
Explainer = Callable[..., jax.Array]

EXPLAINERS: Functions[Explainer] = Functions("explainer")


def explainer(name: str, *, settings: type = NoSettings) -> Callable[[Explainer], Explainer]:
    """Decorator that compiles a function and registers it as an explainer."""

    def register(function: Explainer) -> Explainer:
        compiled = jax.jit(function, static_argnames=("cut", "settings"))
        return EXPLAINERS.function(name, settings=settings)(compiled)

    return register
