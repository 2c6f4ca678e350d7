"""Two-dimensional convolution whose formulation follows the platform that it is compiled for.

On GPU and TPU the compiler's own convolution is the fastest there is. On CPU it is not: XLA's convolution is good only
forwards and without groups, while its matrix product is good always. There the convolution and its two gradients are
written, each by its shape, as XLA's convolution, as matrix products, or as Winograd's minimal filtering
(docs/speed.md has the measurements). All compute the same sums in another order and agree to float tolerance.

The choice is made when a program is lowered, not when it is traced: ahead-of-time compilation for a TPU on a CPU host
gets the TPU's formulation.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from osteojax.models.layers import winograd
from osteojax.models.layers.padding import Padding, pad

Impl = Literal["auto", "native", "matmul", "winograd"]
Pair = tuple[int, int]


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[Sequence[int]] = ((0, 0), (0, 0)),
    feature_groups: int = 1,
    impl: Impl = "auto",
) -> Array:
    """Convolve (cross-correlate, as all of deep learning does) images with a kernel.

    Args:
        x: images, shape (N, H, W, C), any floating dtype.
        kernel: weights, shape (kh, kw, C / feature_groups, O), the dtype of `x`.
        strides: steps along H and W.
        padding: zeros added ((top, bottom), (left, right)).
        feature_groups: number of channel groups; C for a depthwise convolution.
        impl: "native" is `lax.conv_general_dilated`; "matmul" writes the convolution and both its gradients as
            matrix products, one for each tap of the kernel; "winograd" does so by `osteojax.models.layers.winograd`
            where that applies (3x3, stride 1, one group) and as "matmul" elsewhere; "auto" is "native", except
            where the program is compiled for CPU: there the fastest measured of the three.

    Returns:
        Shape (N, (H + top + bottom - kh) // stride + 1, ..., O), the dtype of `x`. Reverse-mode differentiable
        under every `impl`; "native" is differentiable in every way.

    Raises:
        ValueError: if shapes, strides, padding or `impl` do not fit together.
    """
    how = _How(
        strides=(int(strides[0]), int(strides[1])),
        padding=_pairs(padding),
        feature_groups=feature_groups,
    )
    _check(x, kernel, how, impl)
    if impl == "native":
        return _native(x, kernel, how)
    return _conv(x, kernel, how, impl)


@dataclasses.dataclass(frozen=True)
class _How:
    """What a convolution is beside its operands."""

    strides: Pair
    padding: Padding
    feature_groups: int

    def output_size(self, x: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Height and width of the output, from the shapes of x (NHWC) and kernel (HWIO)."""
        height, width = (
            (x[1 + d] + sum(self.padding[d]) - kernel[d]) // self.strides[d] + 1 for d in range(2)
        )
        return height, width

    def fits_winograd(self, kernel: Sequence[int]) -> bool:
        """Whether Winograd's algorithm applies at all."""
        return tuple(kernel[:2]) == (3, 3) and self.strides == (1, 1) and self.feature_groups == 1


def _check(x: Array, kernel: Array, how: _How, impl: str) -> None:
    if impl not in get_args(Impl):
        raise ValueError(f"conv2d: impl is {impl!r}, must be one of {', '.join(get_args(Impl))}")
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"conv2d: x must be NHWC and kernel HWIO, their shapes are {x.shape} and {kernel.shape}"
        )
    groups = how.feature_groups
    if groups < 1 or kernel.shape[2] * groups != x.shape[3] or kernel.shape[3] % groups:
        raise ValueError(
            f"conv2d: a kernel of shape {kernel.shape} with {groups} feature groups does not fit {x.shape[3]} channels"
        )
    if min(how.strides) < 1 or len(how.padding) != 2 or min(itertools.chain(*how.padding)) < 0:
        raise ValueError(
            f"conv2d: strides {how.strides} must be positive and padding {how.padding} not negative"
        )
    if min(how.output_size(x.shape, kernel.shape)) < 1:
        raise ValueError(
            f"conv2d: the kernel {kernel.shape[:2]} is larger than the padded image {x.shape[1:3]}"
        )


# The branch on the platform must lie inside the forward and the backward function: differentiating through
# the branch would make each side store what the other needs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, how: _How, impl: Impl) -> Array:
    return _by_platform(
        impl,
        lambda x, kernel, impl: _forward(x, kernel, how, impl),
        lambda x, kernel: _native(x, kernel, how),
        x,
        kernel,
    )


def _conv_fwd(x: Array, kernel: Array, how: _How, impl: Impl) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, how, impl), (x, kernel)


def _conv_bwd(how: _How, impl: Impl, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def as_products(x: Array, kernel: Array, dy: Array, impl: Impl) -> tuple[Array, Array]:
        return (
            _input_gradient(kernel, dy, x.shape, how, impl),
            _kernel_gradient(x, dy, kernel.shape, how, impl),
        )

    def native(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        _, vjp = jax.vjp(lambda x, kernel: _native(x, kernel, how), x, kernel)
        return vjp(dy)

    return _by_platform(impl, as_products, native, x, kernel, dy)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _pairs(numbers: Sequence[Sequence[int]]) -> tuple[Pair, Pair]:
    (top, bottom), (left, right) = numbers
    return (int(top), int(bottom)), (int(left), int(right))


def _by_platform(impl: Impl, as_products: Callable, native: Callable, *operands: Array) -> Any:
    """The named formulation; for "auto" the CPU's on CPU, the compiler's own anywhere else."""
    if impl != "auto":
        return as_products(*operands, impl=impl)
    return lax.platform_dependent(*operands, cpu=functools.partial(as_products, impl="auto"), default=native)


def _native(x: Array, kernel: Array, how: _How) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        how.strides,
        how.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=how.feature_groups,
    )


def _forward(x: Array, kernel: Array, how: _How, impl: Impl) -> Array:
    """The convolution in the given formulation; "auto" is the fastest measured on CPU."""
    if how.fits_winograd(kernel.shape) and (
        impl == "winograd" or (impl == "auto" and _winograd_pays(x.shape, kernel.shape))
    ):
        return winograd.convolve(x, kernel, how.padding)
    if impl == "auto" and how.feature_groups == 1 and kernel.shape[:2] != (1, 1):
        return _native(x, kernel, how)
    return _matmul(x, kernel, how)


def _winograd_pays(x: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether the saved multiplications outweigh the transforms.

    With few channels the transforms of the images dominate, with few tiles that of the kernel.
    """
    tiles = x[0] * -(-x[1] // winograd.TILE) * -(-x[2] // winograd.TILE)
    return min(kernel[2:]) >= 64 and tiles >= 32


def _windows(x: Array, kernel: Sequence[int], how: _How, size: Pair) -> list[Array]:
    """For each tap of the kernel, the padded image as that tap sees it: shape (N, *size, C)."""
    x = pad(x, how.padding)
    (sh, sw), (height, width) = how.strides, size
    return [
        x[:, i : i + (height - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _matmul(x: Array, kernel: Array, how: _How) -> Array:
    """The convolution as a sum of one matrix product for each tap of the kernel."""
    windows = _windows(x, kernel.shape, how, how.output_size(x.shape, kernel.shape))
    taps = kernel.reshape(len(windows), *kernel.shape[2:])
    return functools.reduce(
        jnp.add, (_product(window, taps[i], how.feature_groups) for i, window in enumerate(windows))
    )


def _product(x: Array, kernel: Array, groups: int) -> Array:
    """(N, H, W, C) times (C / groups, O) -> (N, H, W, O)."""
    inputs, outputs = kernel.shape[0], kernel.shape[1] // groups
    if groups == 1:
        return (x.reshape(-1, inputs) @ kernel).reshape(*x.shape[:3], outputs)
    if inputs == outputs == 1:
        return x * kernel[0]
    x = x.reshape(*x.shape[:3], groups, inputs)
    y = jnp.einsum("nhwgc,cgo->nhwgo", x, kernel.reshape(inputs, groups, outputs))
    return y.reshape(*y.shape[:3], groups * outputs)


def _kernel_gradient(x: Array, dy: Array, kernel: Sequence[int], how: _How, impl: Impl) -> Array:
    if how.fits_winograd(kernel) and (impl == "winograd" or (impl == "auto" and min(kernel[2:]) >= 32)):
        return winograd.kernel_gradient(x, dy, how.padding)
    size = (dy.shape[1], dy.shape[2])
    if how.feature_groups == 1 and kernel[2] <= 4:
        # One tall product: with so few input channels, a product for each tap would be all overhead.
        channels_first = [jnp.moveaxis(window, 3, 0) for window in _windows(x, kernel, how, size)]
        patches = jnp.stack(channels_first).reshape(kernel[0] * kernel[1] * kernel[2], -1)
        return (patches @ dy.reshape(-1, kernel[3])).reshape(kernel)
    windows = _windows(x, kernel, how, size)
    if how.feature_groups == 1:
        dy = dy.reshape(-1, kernel[3])
        taps = [_tall_product(window.reshape(-1, kernel[2]), dy) for window in windows]
    elif kernel[2] == 1 and kernel[3] == how.feature_groups:
        taps = _sums([window * dy for window in windows])
    else:
        grouped = dy.reshape(*dy.shape[:3], how.feature_groups, kernel[3] // how.feature_groups)
        taps = [
            jnp.einsum(
                "nhwgc,nhwgo->cgo", window.reshape(*window.shape[:3], how.feature_groups, kernel[2]), grouped
            )
            for window in windows
        ]
    return jnp.stack(taps).reshape(kernel)


def _tall_product(x: Array, y: Array) -> Array:
    """x^T y (C, O) of x (M, C) and y (M, O)."""
    inputs, outputs = x.shape[1], y.shape[1]

    def product(x: Array, y: Array) -> Array:
        return lax.dot_general(x, y, (((0,), (0,)), ((), ())))

    if inputs <= outputs or outputs % 2:
        return product(x, y)
    # XLA's product takes up to twice as long for a tall result as for a wide one. Without the split in halves the
    # compiler would put the transposition back into the product.
    return product(y, x).reshape(2, -1, inputs).transpose(2, 0, 1).reshape(inputs, outputs)


def _sums(products: list[Array]) -> list[Array]:
    """The sum of each (N, H, W, C) over all axes but C, all in one pass over what they have in common."""
    zeros = tuple(jnp.zeros((), p.dtype) for p in products)
    rows = lax.reduce(
        tuple(products), zeros, lambda a, b: tuple(jnp.add(p, q) for p, q in zip(a, b, strict=True)), (2,)
    )
    return [row.sum((0, 1)) for row in rows]


def _input_gradient(kernel: Array, dy: Array, x: Sequence[int], how: _How, impl: Impl) -> Array:
    """A convolution of the output's gradient with the flipped kernel, one for each phase of the stride.

    Rows p, p + s, p + 2 s, ... of the padded input meet only taps i with i = p modulo s, so they are a
    convolution of stride 1 with those taps: no product with a zero, and nothing scattered.
    """
    if how.strides == (1, 1):
        first = (how.padding[0][0], how.padding[1][0])
        return _input_gradient_phase(kernel, dy, first, (x[1], x[2]), how, impl)
    (sh, sw), (top, left) = how.strides, (how.padding[0][0], how.padding[1][0])
    size = tuple(-(-(x[1 + d] + how.padding[d][0]) // how.strides[d]) for d in range(2))
    phases = [
        [_input_gradient_phase(kernel[p::sh, q::sw], dy, (0, 0), size, how, impl) for q in range(sw)]
        for p in range(sh)
    ]
    dx = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    dx = dx.reshape(x[0], size[0] * sh, size[1] * sw, x[3])
    return dx[:, top : top + x[1], left : left + x[2]]


def _input_gradient_phase(
    taps: Array, dy: Array, first: Pair, size: Sequence[int], how: _How, impl: Impl
) -> Array:
    """Rows `first[0]` to `first[0] + size[0]` of dy's full convolution with the flipped taps, columns likewise."""
    kh, kw, inputs, outputs = taps.shape
    if kh == 0 or kw == 0:
        return jnp.zeros((dy.shape[0], *size, inputs * how.feature_groups), dy.dtype)
    # Flipped, and with inputs and outputs exchanged within each group.
    groups = how.feature_groups
    flipped = taps[::-1, ::-1].reshape(kh, kw, inputs, groups, outputs // groups)
    flipped = flipped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, outputs // groups, groups * inputs)
    around = _pairs(
        [(k - 1 - f, s + f - d) for k, f, s, d in zip((kh, kw), first, size, dy.shape[1:3], strict=True)]
    )
    return _forward(dy, flipped, _How((1, 1), around, how.feature_groups), impl)
