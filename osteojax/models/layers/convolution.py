"""The layers that every architecture is made of: convolution, convolution with batch norm, linear."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from osteojax.models.layers import pointwise
from osteojax.models.layers.conv2d import Impl, conv2d
from osteojax.models.layers.norm import BatchNorm

Padding = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Input:
    """The images that a network takes, in [0, 1].

    Attributes:
        channels: 1 (grey), beside which the images may have a second, a map; or 3 (RGB).
        mean, std: of RGB; the first convolution normalises by them.
    """

    channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Raises ValueError for another number of channels."""
        if self.channels not in (1, 3):
            raise ValueError(f"in_channels is 1 (grey) or 3 (RGB), not {self.channels}")


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """What all layers of a model share.

    Attributes:
        dtype: compute dtype of activations and matrix products (float32 or bfloat16); parameters are float32.
        conv_impl: formulation of the convolutions, see `osteojax.models.layers.conv2d.conv2d`.
        padding: "torch" pads k // 2 on every side, and patches that do not overlap (a stride of k) not at all; "same"
            is TensorFlow's SAME (the surplus to the right and below).
        bn_eps, bn_momentum, bn_parts: see `BatchNorm`.
    """

    dtype: DTypeLike = jnp.float32
    conv_impl: Impl = "auto"
    padding: str = "torch"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    bn_parts: int = 1

    def batch_norm(self, features: int) -> BatchNorm:
        """A batch norm with this model's constants."""
        return BatchNorm(features, eps=self.bn_eps, momentum=self.bn_momentum, parts=self.bn_parts)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME for one axis: ceil(size / stride) outputs, the odd pixel of padding at the end."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def standard_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal float32 numbers, drawn in powers of two.

    A ResNet has dozens of kernel shapes, and XLA would compile a generator for each: ten seconds before the first
    step. Powers of two make it a handful.
    """
    count = math.prod(shape)
    return _draw(key, 1 << (count - 1).bit_length())[:count].reshape(shape)


_draw = jax.jit(lambda key, count: jax.random.normal(key, (count,), jnp.float32), static_argnums=1)


class Conv(nnx.Module):
    """A square convolution, NHWC, kernel (k, k, in / feature_groups, out) float32, without a bias unless told.

    The initialiser is He et al. 2015 normal over fan-out, as in torchvision; a bias (out,) starts at 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int = 1,
        feature_groups: int = 1,
        bias: bool = False,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, in_features // feature_groups, out_features)
        std = math.sqrt(2 / (size * size * out_features / feature_groups))
        self.kernel = nnx.Param(std * standard_normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if bias else None
        self.stride = stride
        self.feature_groups = feature_groups
        self.options = options

    def padding(self, height: int, width: int) -> Padding:
        """The padding ((top, bottom), (left, right)) of an input of this size."""
        size = self.kernel.shape[0]
        if self.options.padding == "same":
            return same_padding(height, size, self.stride), same_padding(width, size, self.stride)
        around = 0 if size == self.stride else size // 2
        return (around, around), (around, around)

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """x (B, H, W, in) convolved with this kernel in place of its own, in the compute dtype."""
        return conv2d(
            x.astype(self.options.dtype),
            kernel.astype(self.options.dtype),
            strides=(self.stride, self.stride),
            padding=self.padding(x.shape[1], x.shape[2]),
            feature_groups=self.feature_groups,
            impl=self.options.conv_impl,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, in) -> (B, H', W', out) in the compute dtype."""
        y = self.convolve(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class ConvBN(Conv):
    """A convolution followed by batch norm; where the norm is frozen, it is folded into the kernel.

    With running statistics the norm is `y * factor + offset`, and `factor` commutes with the convolution: the
    kernel takes it, so that only a bias remains. Gradients of kernel, scale and bias are those of the
    unfolded form.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int = 1,
        feature_groups: int = 1,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            size,
            stride=stride,
            feature_groups=feature_groups,
            options=options,
            rngs=rngs,
        )
        self.norm = options.batch_norm(out_features)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """(B, H, W, in) -> (B, H', W', out) in the compute dtype; `mask` (B,) as in `BatchNorm`."""
        if self.norm.use_running_average:
            factor, offset = self.norm.affine()
            y = self.convolve(x, self.kernel[...] * factor)
            return y + offset.astype(y.dtype)
        if self._widens_in_bfloat16():
            kernel = self.kernel[0, 0]
            x = x.astype(self.options.dtype)
            mean, var, count = pointwise.moments(x, kernel, mask)
            factor, offset = self.norm.absorb(mean[None], var[None], count[None, None])
            return pointwise.affine_conv(x, kernel, factor[0], offset[0])
        return self.norm(self.convolve(x, self.kernel[...]), mask)

    def _widens_in_bfloat16(self) -> bool:
        """Whether `osteojax.models.layers.pointwise` applies and pays: bfloat16 is for chips that memory bounds."""
        height, width, inputs, outputs = self.kernel.shape
        # At a stride the pixels in use would have to be gathered first, which costs what the rest gains.
        plain = height == width == self.stride == self.feature_groups == self.options.bn_parts == 1
        return plain and inputs < outputs and self.options.dtype == jnp.bfloat16

    def pooled(
        self, x: jax.Array, mask: jax.Array | None, max_pool: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """`max_pool(self(x, mask))`, with the norm after the maximum: the normalised image is never written.

        The norm rises with its input where its scale is positive and falls where it is negative; the kernel takes
        the sign, and a maximum remains a maximum.
        """
        sign = jnp.where(self.norm.scale[...] < 0, -1.0, 1.0)
        y = self.convolve(x, self.kernel[...] * sign)
        sign = sign.astype(y.dtype)
        factor, offset = self.norm.fit(y * sign, mask)
        return self.norm.normalise(max_pool(y) * sign, factor, offset)


def convolve_pixels(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    image: Input,
    dtype: DTypeLike,
) -> jax.Array:
    """Pixels, grey or RGB, normalised by mean and std and convolved.

    The kernel has three input channels either way. A grey image g stands for (g, g, g); with (g - mean_c) /
    std_c zero-padded *after* the normalisation, as the pretraining did, the convolution over three equal
    channels is

        conv(g - m, sum_c k_c / std_c) + conv(1, sum_c k_c (m - mean_c) / std_c),    m = the average of
        mean_c,

    where both convolutions pad with zeros. It is exact at the borders too, in value and gradient; the
    second term is one image's work for the whole batch.

    A grey image with a map m beside it stands for (g, g, m).

    Args:
        convolve: `f(x, kernel)`, of any number of input channels.
        x: (B, H, W, image.channels) in [0, 1], or (B, H, W, 2): grey, and a map.
        kernel: (k, k, 3, out) float32.
        image: what x is.
        dtype: in which `convolve` computes.

    Raises:
        ValueError: x has another number of channels.
    """
    with_map = image.channels == 1 and x.shape[-1] == 2
    if x.shape[-1] != image.channels and not with_map:
        raise ValueError(f"the model takes {image.channels} channels; the images are {x.shape}")
    mean, std = jnp.asarray(image.mean), jnp.asarray(image.std)
    if with_map:
        x = x[..., jnp.array([0, 0, 1])]
    if image.channels == 3 or with_map:
        return convolve((x - mean) / std, kernel)
    grey_mean = sum(image.mean) / 3
    kernel = kernel / std[:, None]
    centred, kernel_of_x = x - grey_mean, kernel.sum(2, keepdims=True)
    if len(set(image.mean)) == 1:
        return convolve(centred, kernel_of_x)
    kernel_of_one = (kernel * (grey_mean - mean)[:, None]).sum(2, keepdims=True)
    if dtype == jnp.bfloat16:
        # As a channel of ones: on chips that memory bounds that costs nothing, while the second term's gradient
        # would be the output's, summed over the batch.
        channels = jnp.concatenate([centred, jnp.ones_like(centred)], -1)
        return convolve(channels, jnp.concatenate([kernel_of_x, kernel_of_one], 2))
    ones = jnp.ones((1, *x.shape[1:]), jnp.float32)
    return convolve(centred, kernel_of_x) + convolve(ones, kernel_of_one)


class InputConv(Conv):
    """The first convolution of a network without batch norm, with a bias: takes [0, 1] pixels, grey or RGB."""

    def __init__(
        self,
        out_features: int,
        size: int,
        *,
        image: Input,
        stride: int,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(3, out_features, size, stride=stride, bias=True, options=options, rngs=rngs)
        self.image = image

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """x (B, H, W, in_channels) in [0, 1], normalised and convolved with kernel (k, k, 3, out)."""
        return convolve_pixels(super().convolve, x, kernel, self.image, self.options.dtype)


class InputConvBN(ConvBN):
    """The first convolution of a network with batch norm: takes [0, 1] pixels, grey or RGB."""

    def __init__(
        self,
        out_features: int,
        size: int,
        *,
        image: Input,
        stride: int = 1,
        options: LayerOptions,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(3, out_features, size, stride=stride, options=options, rngs=rngs)
        self.image = image

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """x (B, H, W, in_channels) in [0, 1], normalised and convolved with kernel (k, k, 3, out)."""
        return convolve_pixels(super().convolve, x, kernel, self.image, self.options.dtype)


class Linear(nnx.Module):
    """A dense layer, kernel (in, out) and perhaps bias (out,), uniform in +-1/sqrt(in) at the start as in PyTorch."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        bound = 1 / math.sqrt(in_features)
        shape = (in_features, out_features)
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))
        self.bias = (
            nnx.Param(jax.random.uniform(rngs.params(), (out_features,), jnp.float32, -bound, bound))
            if bias
            else None
        )
        self.dtype = dtype
        self.dropout: nnx.Dropout | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., in) -> (..., out) in the layer's dtype; in training after its dropout, where it has one."""
        x = x if self.dropout is None else self.dropout(x)
        y = x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)
