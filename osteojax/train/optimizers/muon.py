"""Muon."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import optax
import optax.contrib

from osteojax.config import AtLeastOne, Fraction, Positive
from osteojax.train.kernels import kernels
from osteojax.train.optimizers.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class Muon:
    """Decay of the momentum, iterations, and how large a step is.

    Attributes:
        beta: decay of the momentum.
        iterations: of Newton and Schulz.
        rms: root mean square of a full-rank update, about that of AdamW, so that one learning rate does for both.
        b1, b2, eps: of Adam, which does the rest.
    """

    beta: Annotated[float, Fraction] = 0.95
    iterations: Annotated[int, AtLeastOne] = 5
    rms: Annotated[float, Positive] = 0.2
    b1: Annotated[float, Fraction] = 0.9
    b2: Annotated[float, Fraction] = 0.999
    eps: Annotated[float, Positive] = 1e-8


@OPTIMIZERS.function("muon", settings=Muon)
def muon(
    decay: optax.GradientTransformation, rate: optax.GradientTransformation, settings: Muon
) -> Sequence[optax.GradientTransformation]:
    """Jordan et al. 2024, with the scale of Liu et al. 2025 (eq. 4) and decoupled weight decay.

    The momentum of each convolution, a matrix of (k k in, out), is brought near to the closest orthogonal one. The
    head, what is no kernel, and depthwise kernels, which are no matrices, are Adam's.
    """
    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=settings.beta,
            ns_steps=settings.iterations,
            weight_dimension_numbers=lambda updates: jax.tree.map(_dimensions, updates),
        ),
        optax.stateless(
            lambda updates, params: jax.tree.map(lambda u: settings.rms * _longer_side(u) ** 0.5 * u, updates)
        ),
    )
    adam = optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps)
    return optax.partition({"muon": muon, "adam": adam}, _owners), decay, rate


def _owners(params: Any) -> Any:
    def owner(path: Any, p: Any, kernel: bool) -> str:
        inner = kernel and not path[-1].key.startswith("head/")
        return "muon" if inner and _is_matrix(p) else "adam"

    return jax.tree_util.tree_map_with_path(owner, params, kernels(params))


def _is_matrix(p: jax.Array) -> bool:
    return p.ndim == 2 or (p.ndim == 4 and p.shape[2] > 1)


def _dimensions(p: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    return optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)


def _longer_side(p: jax.Array) -> int:
    return max(math.prod(p.shape[:-1]), p.shape[-1])
