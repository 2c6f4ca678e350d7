"""From a config to a model with random weights, or with shapes in place of weights."""

import dataclasses
from typing import Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx

from osteojax import models
from osteojax.config import Fraction
from osteojax.errors import UserError
from osteojax.models.backbone import MIN_SIZE, Backbone, PoolHead
from osteojax.models.layers.attention_head import AttentionHead, AttentionSection
from osteojax.models.layers.convolution import LayerOptions, Linear
from osteojax.models.layers.joined import EMBEDDED, Joined
from osteojax.models.layers.last import Last, last_layer
from osteojax.models.layers.siamese import SiameseHead
from osteojax.models.layers.stochastic_depth import thin
from osteojax.models.layers.t_score import WithTScore


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """`model.*` of an experiment's config.

    Attributes:
        name: of the architecture.
        fallback: another architecture, for `init="imagenet_or_random"` where the first one's weights cannot be had.
        dtype: of the computation; parameters are float32.
        batch_norm: statistics over the global batch, or over the part of each device.
        conv_impl: see `osteojax.models.layers.conv2d`.
        head: what the last layer is, see `osteojax.models.layers.last`; or "simsiam", which learns without labels and
            tells no classes apart, see `osteojax.models.layers.siamese`.
        attention: a transformer in place of the architecture's own head, see `osteojax.models.layers.attention_head`.
        covariates: columns of the dataset that the last layer takes beside the image's features, see
            `osteojax.models.layers.joined`.
        t_score: the column of a T-score that the network learns to give; empty for none.
        dropout: share of the features that the last layer does not see in training (Srivastava et al. 2014).
        stochastic_depth: how often the deepest residual branch is left out in training, see
            `osteojax.models.layers.stochastic_depth`.
    """

    name: str
    fallback: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_norm: Literal["global", "per_device"] = "global"
    conv_impl: Literal["auto", "native", "matmul", "winograd"] = "auto"
    head: Last | Literal["simsiam"] = "softmax"
    attention: AttentionSection = dataclasses.field(default_factory=AttentionSection)
    covariates: tuple[str, ...] = ()
    t_score: str = ""
    dropout: Annotated[float, Fraction] = 0.0
    stochastic_depth: Annotated[float, Fraction] = 0.0


def build(
    section: ModelSection, architecture: str, classes: int, *, seed: int, devices: int = 1, inputs: int = 0
) -> Backbone:
    """The model of a config with random weights; `seed` determines them.

    Batch norm takes its statistics over the global batch, or, with `batch_norm="per_device"`, over the part of each
    of the `devices`. The architecture is the section's `name` or its `fallback`. `inputs` are the numbers that its
    `covariates` become.

    Raises:
        UserError: an unknown architecture, or one without residual branches to leave out, or whose head SimSiam's or
            a transformer cannot replace.
    """
    rngs = nnx.Rngs(seed)
    bn_parts = devices if section.batch_norm == "per_device" else 1
    model = models.create(
        architecture,
        num_classes=classes,
        in_channels=1,
        dtype=jnp.dtype(section.dtype),
        rngs=rngs,
        bn_parts=bn_parts,
        conv_impl=section.conv_impl,
    )
    if section.attention.blocks > 0:
        if section.head == "simsiam" or model.patch is not None:
            other = (
                "model.head='simsiam'" if model.patch is None else f"{architecture}, which is a transformer"
            )
            raise UserError(
                f"model.attention.blocks={section.attention.blocks} does not go with {other}; set it to 0"
            )
        options = LayerOptions(dtype=jnp.dtype(section.dtype))
        model.head = AttentionHead(_width(model), classes, section.attention, options=options, rngs=rngs)
    if section.head == "simsiam":
        if not isinstance(model.head, PoolHead):
            raise UserError(
                f"model.head='simsiam': {architecture} has more than pooling and one layer in its head; take a ResNet"
            )
        options = LayerOptions(bn_parts=bn_parts)
        model.head = SiameseHead(model.head.fc.kernel.shape[0], options=options, rngs=rngs)
    else:
        model.head.fc = _last(section, model.head.fc, classes, inputs, rngs=rngs)
    if section.stochastic_depth > 0:
        thin(model, section.stochastic_depth, rngs=rngs)
    return model


def _last(section: ModelSection, plain: Linear, classes: int, inputs: int, *, rngs: nnx.Rngs) -> Any:
    """What the section wants in the place of an architecture's last layer."""
    if bool(section.covariates) != bool(inputs):
        raise ValueError(f"model.covariates={section.covariates} as {inputs} numbers")
    if inputs:
        plain = Linear(plain.kernel.shape[0] + EMBEDDED, classes, rngs=rngs)
    features = plain.kernel.shape[0]
    last: Any = last_layer(cast(Last, section.head), plain, classes, rngs=rngs)
    sees = [last]
    if section.t_score and section.head != "t_score":
        last = WithTScore(last, features, rngs=rngs)
        sees.append(last.t_score)
    if section.dropout > 0:
        for layer in sees:
            layer.dropout = nnx.data(nnx.Dropout(section.dropout, rngs=rngs))
    return Joined(last, inputs, len(section.covariates), rngs=rngs) if inputs else last


def _width(model: Backbone) -> int:
    """Channels of the last map."""
    model.eval()  # in which nothing is written
    image = jax.ShapeDtypeStruct((1, MIN_SIZE, MIN_SIZE, 1), jnp.float32)
    width = jax.eval_shape(model.features, image).shape[-1]
    model.train()
    return width


def build_shapes(
    section: ModelSection, architecture: str, classes: int, *, devices: int = 1, inputs: int = 0
) -> Backbone:
    """As `build`, with shapes in place of arrays: quick, where the values are about to be restored."""
    return nnx.eval_shape(
        lambda: build(section, architecture, classes, seed=0, devices=devices, inputs=inputs)
    )
