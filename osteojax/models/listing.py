"""The classifiers side by side: size, cost, published accuracy, and where their weights come from."""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax.models.layers.platform import portable_formulations
from osteojax.models.registry import ARCHITECTURES, create

CLASSES = 1000
"""ImageNet's, so that the numbers can be held against the publishers'."""
_BATCH, _ROUNDS = 8, 3


@dataclasses.dataclass(frozen=True)
class Line:
    """What is told of an architecture, with three channels and 1,000 classes.

    Attributes:
        name: of the registry.
        parameters: numbers that can learn; running statistics are none.
        flops: floating-point operations of one image's logits, two a multiply-add, as XLA counts before it
            optimises; NaN where this backend does not count.
        images_per_second: inference on this machine's first device; None where it was not timed.
        top1: see `osteojax.models.registry.Architecture`.
        weights: where the default weights are; "" where none are published with a SHA-256.
        licence: the note on them.
    """

    name: str
    parameters: int
    flops: float
    images_per_second: float | None
    top1: float | None
    weights: str
    licence: str


def line(name: str, *, size: int = 224, timed: bool = False) -> Line:
    """Looks an architecture up and counts; builds no weights unless it is timed.

    Args:
        name: of the registry.
        size: pixels of the square images.
        timed: measure `images_per_second`: the best of three batches of 8 in float32, behind one for the compiler.

    Raises:
        UserError: no such classifier.
    """
    entry = ARCHITECTURES.get(name)

    def build() -> nnx.Module:
        model = create(name, num_classes=CLASSES, in_channels=3, conv_impl="native", rngs=nnx.Rngs(0))
        model.eval()
        return model

    parts: Any = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    graph, params, rest = parts
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with portable_formulations():  # a branch on the platform would be counted with all its sides
        lowered = jax.jit(lambda *state, x: nnx.merge(graph, *state)(x)).lower(params, rest, x=image)
    cost = lowered.cost_analysis() or {}
    return Line(
        name=name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        flops=cost.get("flops", math.nan),
        images_per_second=_images_per_second(name, size) if timed else None,
        top1=entry.top1,
        weights=entry.weights.url if entry.weights is not None else "",
        licence=entry.weights.licence if entry.weights is not None else "",
    )


def _images_per_second(name: str, size: int) -> float:
    model = create(name, num_classes=CLASSES, in_channels=3, rngs=nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    images = jnp.full((_BATCH, size, size, 3), 0.5, jnp.float32)
    logits(state, images).block_until_ready()
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        logits(state, images).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return _BATCH / min(seconds)
