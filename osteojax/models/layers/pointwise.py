"""A widening 1x1 convolution and its batch norm in training, without the map that lies between them.

The convolution y = x W is linear in each pixel, so the statistics of y follow from those of x:

    mean(y) = mean(x) W,    var(y) = diag(W^T cov(x) W).

With those at hand the norm is a factor and an offset, `x W * factor + offset`, that the convolution applies to its
result before it is written: y itself is neither written nor, for the gradient, read. It is the gradient of `factor`
that seems to need it, and sum(dz * y) = sum(W * x^T dz), whose product is a by-product of the kernel's gradient.

It pays where memory bounds the step and x has fewer channels than y: cov(x) costs as many multiplications as a
convolution from K to K channels.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_vjp
def affine_conv(x: Array, kernel: Array, factor: Array, offset: Array) -> Array:
    """`conv(x, kernel) * factor + offset` with a 1x1 kernel.

    Args:
        x: (B, H, W, K).
        kernel: (K, C) float32; the products are taken in the dtype of `x`, the sums in float32.
        factor: (C,) float32.
        offset: (C,) float32.

    Returns:
        (B, H, W, C) in the dtype of `x`.
    """
    return (_conv(x, kernel) * factor + offset).astype(x.dtype)


def _affine_conv_fwd(
    x: Array, kernel: Array, factor: Array, offset: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return affine_conv(x, kernel, factor, offset), (x, kernel, factor)


def _affine_conv_bwd(saved: tuple[Array, Array, Array], dz: Array) -> tuple[Array, Array, Array, Array]:
    x, kernel, factor = saved
    dx = _conv(dz, (kernel * factor).T).astype(x.dtype)
    products = _products(x, dz)
    return dx, products * factor, (products * kernel).sum(0), dz.sum((0, 1, 2), dtype=jnp.float32)


affine_conv.defvjp(_affine_conv_fwd, _affine_conv_bwd)


@jax.custom_vjp
def second_moments(x: Array) -> Array:
    """Sum over all pixels of x x^T: (B, H, W, K) -> (K, K) float32, to be used in symmetric functions alone."""
    return _products(x, x)


def _second_moments_bwd(x: Array, dm: Array) -> tuple[Array]:
    return (_conv(x, 2 * dm).astype(x.dtype),)  # dm + dm^T, and dm is symmetric


second_moments.defvjp(lambda x: (second_moments(x), x), _second_moments_bwd)


def moments(x: Array, kernel: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Mean (C,) and biased variance (C,) of conv(x, kernel), and the number of pixels that they are over.

    Rows of the batch where `mask` (B,) is 0 do not count.
    """
    rows = jnp.asarray(x.shape[0], jnp.float32)
    if mask is not None:
        kept = mask != 0
        x = jnp.where(kept[:, None, None, None], x, 0)
        rows = kept.sum(dtype=jnp.float32)
    count = rows * x.shape[1] * x.shape[2]
    total = jnp.maximum(count, 1)
    mean = x.sum((0, 1, 2), dtype=jnp.float32) / total
    covariance = second_moments(x) / total - jnp.outer(mean, mean)
    # A TPU's products are bfloat16 unless told; of these small ones a variance's digits depend.
    exact = lax.Precision.HIGHEST
    var = (jnp.matmul(covariance, kernel, precision=exact) * kernel).sum(0)
    return jnp.matmul(mean, kernel, precision=exact), jnp.maximum(var, 0), count


# Written as convolutions, not as products of matrices: flattening the axes of the image would force a layout on them.
def _conv(x: Array, kernel: Array) -> Array:
    """(B, H, W, K) times (K, C) -> (B, H, W, C) float32, products in the dtype of x."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype)[None, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )


def _products(x: Array, y: Array) -> Array:
    """x^T y over all pixels: (B, H, W, K), (B, H, W, C) -> (K, C) float32."""
    product = lax.conv_general_dilated(
        x,
        y,
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return product[0, 0]
