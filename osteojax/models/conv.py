"""Two-dimensional convolution whose formulation follows the platform that it is compiled for.

On GPU and TPU the compiler's own convolution is the fastest there is. On CPU it is not, above all backwards
(XLA calls a generic contraction, or a naive loop where that one does not apply), while its matrix product is
good: there a convolution is written as matrix products instead, forwards and backwards. Both formulations
compute the same sums in another order, so they agree to float tolerance.

The choice is made when a program is lowered, not when it is traced: ahead-of-time compilation for a TPU on a
CPU host gets the TPU's formulation.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

Impl = Literal["auto", "native", "matmul"]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[Sequence[int]] = ((0, 0), (0, 0)),
    groups: int = 1,
    impl: Impl = "auto",
) -> Array:
    """Convolve (cross-correlate, as all of deep learning does) images with a kernel.

    Args:
        x: images, shape (N, H, W, C), any floating dtype.
        kernel: weights, shape (kh, kw, C / groups, O), the dtype of `x`.
        strides: steps along H and W.
        padding: zeros added ((top, bottom), (left, right)).
        groups: number of channel groups; C for a depthwise convolution.
        impl: "native" is `lax.conv_general_dilated`; "matmul" writes the convolution and both its gradients
            as matrix products; "auto" takes "matmul" where the program is compiled for CPU, else "native".

    Returns:
        Shape (N, (H + top + bottom - kh) // stride + 1, ..., O), the dtype of `x`.
        Reverse-mode differentiable under every `impl`; "native" is differentiable in every way.

    Raises:
        ValueError: if shapes, strides, padding or `impl` do not fit together.
    """
    strides_ = (int(strides[0]), int(strides[1]))
    padding_ = tuple((int(before), int(after)) for before, after in padding)
    _check(x, kernel, strides_, padding_, groups, impl)
    if impl == "native":
        return _native(x, kernel, strides_, padding_, groups)
    return _conv(x, kernel, strides_, padding_, groups, impl)


def _check(x: Array, kernel: Array, strides: Pair, padding: Padding, groups: int, impl: str) -> None:
    if impl not in get_args(Impl):
        raise ValueError(f"conv2d: impl is {impl!r}, must be one of {', '.join(get_args(Impl))}")
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"conv2d: x must be NHWC and kernel HWIO, their shapes are {x.shape} and {kernel.shape}"
        )
    if groups < 1 or kernel.shape[2] * groups != x.shape[3] or kernel.shape[3] % groups:
        raise ValueError(
            f"conv2d: kernel of shape {kernel.shape} with {groups} groups does not fit {x.shape[3]} channels"
        )
    if min(strides) < 1 or len(padding) != 2 or min(itertools.chain(*padding)) < 0:
        raise ValueError(f"conv2d: strides {strides} must be positive and padding {padding} not negative")
    if min(_output_size(x.shape, kernel.shape, strides, padding)) < 1:
        raise ValueError(f"conv2d: kernel {kernel.shape[:2]} is larger than the padded image {x.shape[1:3]}")


def _output_size(x: Sequence[int], kernel: Sequence[int], strides: Pair, padding: Padding) -> Pair:
    """Height and width of the output."""
    height, width = ((x[1 + d] + sum(padding[d]) - kernel[d]) // strides[d] + 1 for d in range(2))
    return height, width


def _native(x: Array, kernel: Array, strides: Pair, padding: Padding, groups: int) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


# The branch on the platform must lie inside the forward and the backward function: differentiating through
# the branch would make each side store what the other needs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv(x: Array, kernel: Array, strides: Pair, padding: Padding, groups: int, impl: Impl) -> Array:
    matmul = functools.partial(_matmul, strides=strides, padding=padding, groups=groups)
    if impl == "matmul":
        return matmul(x, kernel)
    native = functools.partial(_native, strides=strides, padding=padding, groups=groups)
    return lax.platform_dependent(x, kernel, cpu=matmul, default=native)


def _conv_fwd(
    x: Array, kernel: Array, strides: Pair, padding: Padding, groups: int, impl: Impl
) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, strides, padding, groups, impl), (x, kernel)


def _conv_bwd(
    strides: Pair, padding: Padding, groups: int, impl: Impl, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved

    def native(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        _, vjp = jax.vjp(lambda x, k: _native(x, k, strides, padding, groups), x, kernel)
        return vjp(dy)

    def matmul(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return (
            _matmul_input_gradient(kernel, dy, x.shape, strides, padding, groups),
            _matmul_kernel_gradient(x, dy, kernel.shape, strides, padding, groups),
        )

    if impl == "matmul":
        return matmul(x, kernel, dy)
    return lax.platform_dependent(x, kernel, dy, cpu=matmul, default=native)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _pad(x: Array, padding: Padding) -> Array:
    """Zero padding; a negative amount crops."""
    if not any(itertools.chain(*padding)):
        return x
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)))


def _windows(x: Array, kernel_size: Pair, strides: Pair, size: Pair) -> list[tuple[int, int, Array]]:
    """For each tap (i, j) of the kernel, the padded image as that tap sees it: shape (N, *size, C)."""
    return [
        (
            i,
            j,
            x[
                :,
                i : i + (size[0] - 1) * strides[0] + 1 : strides[0],
                j : j + (size[1] - 1) * strides[1] + 1 : strides[1],
            ],
        )
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]


def _matmul(x: Array, kernel: Array, strides: Pair, padding: Padding, groups: int) -> Array:
    """The convolution as a sum of one matrix product for each tap of the kernel."""
    size = _output_size(x.shape, kernel.shape, strides, padding)
    windows = _windows(_pad(x, padding), kernel.shape[:2], strides, size)
    return functools.reduce(jnp.add, (_product(window, kernel[i, j], groups) for i, j, window in windows))


def _product(x: Array, kernel: Array, groups: int) -> Array:
    """(N, H, W, C) times (C / groups, O) -> (N, H, W, O)."""
    if groups == 1:
        return jnp.einsum("nhwc,co->nhwo", x, kernel)
    inputs, outputs = kernel.shape[0], kernel.shape[1] // groups
    if inputs == outputs == 1:
        return x * kernel[0]
    x = x.reshape(*x.shape[:3], groups, inputs)
    y = jnp.einsum("nhwgc,cgo->nhwgo", x, kernel.reshape(inputs, groups, outputs))
    return y.reshape(*y.shape[:3], groups * outputs)


def _matmul_kernel_gradient(
    x: Array, dy: Array, kernel: Sequence[int], strides: Pair, padding: Padding, groups: int
) -> Array:
    windows = _windows(_pad(x, padding), (kernel[0], kernel[1]), strides, dy.shape[1:3])
    if groups == 1:
        taps = [jnp.einsum("nhwc,nhwo->co", window, dy) for _, _, window in windows]
    elif kernel[2] == 1 and kernel[3] == groups:
        taps = [jnp.sum(window * dy, axis=(0, 1, 2)) for _, _, window in windows]
    else:
        grouped = dy.reshape(*dy.shape[:3], groups, kernel[3] // groups)
        taps = [
            jnp.einsum("nhwgc,nhwgo->cgo", window.reshape(*window.shape[:3], groups, kernel[2]), grouped)
            for _, _, window in windows
        ]
    return jnp.stack(taps).reshape(kernel)


def _matmul_input_gradient(
    kernel: Array, dy: Array, x: Sequence[int], strides: Pair, padding: Padding, groups: int
) -> Array:
    """A convolution of the output's gradient with the flipped kernel, one for each phase of the stride.

    Rows p, p + s, p + 2 s, ... of the padded input meet only taps i with i = p modulo s, so they are a
    convolution of stride 1 with those taps: no product with a zero, and nothing scattered.
    """
    padded = tuple(x[1 + d] + sum(padding[d]) for d in range(2))
    rows = [
        jnp.stack(
            [_input_gradient_phase(kernel, dy, (p, q), padded, strides, groups) for q in range(strides[1])],
            axis=3,
        )
        for p in range(strides[0])
    ]
    dx = jnp.stack(rows, axis=2)
    n, height, sh, width, sw, c = dx.shape
    dx = dx.reshape(n, height * sh, width * sw, c)
    (top, _), (left, _) = padding
    return dx[:, top : top + x[1], left : left + x[2]]


def _input_gradient_phase(
    kernel: Array, dy: Array, phase: Pair, padded: Sequence[int], strides: Pair, groups: int
) -> Array:
    """Gradient for the padded input's rows p::sh and columns q::sw, shape (N, ceil(H/sh), ceil(W/sw), C)."""
    taps = kernel[phase[0] :: strides[0], phase[1] :: strides[1]]
    size = tuple(-(-padded[d] // strides[d]) for d in range(2))
    kh, kw, inputs, outputs = taps.shape
    if kh == 0 or kw == 0:
        return jnp.zeros((dy.shape[0], *size, inputs * groups), dy.dtype)
    # (kh, kw, C/g, g * O/g) flipped and with inputs and outputs exchanged within each group
    flipped = taps[::-1, ::-1].reshape(kh, kw, inputs, groups, outputs // groups)
    flipped = flipped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, outputs // groups, groups * inputs)
    full = tuple((k - 1, s - d) for k, s, d in zip((kh, kw), size, dy.shape[1:3], strict=True))
    return _matmul(dy, flipped, (1, 1), full, groups)
