"""The trust ratio that LARS and LAMB share."""

import optax

from osteojax.train.kernels import kernels


def trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """Each update times `coefficient` |p| / |update|, of kernels; biases, norms and the like are left as they are.

    You, Gitman and Ginsburg 2017, eq. 6; with vectors left out as in the authors' ResNet-50. Where either norm is 0,
    the ratio is 1.
    """
    return optax.masked(optax.scale_by_trust_ratio(trust_coefficient=coefficient), kernels)
