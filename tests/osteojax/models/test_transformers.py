"""Small relatives of ViT, Swin and ConvNeXt: masks of shifted windows, branches left out, runs without batch norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small  # noqa: F401  registers the architecture "tiny"
from flax import nnx

from osteojax import models
from osteojax.models.build import ModelSection, build
from osteojax.models.convnext import convnext
from osteojax.models.layers.convolution import LayerOptions
from osteojax.models.network import Network, freeze_batch_norm
from osteojax.models.registry import architecture
from osteojax.models.swin import WindowAttention, swin
from osteojax.models.vit import vit
from osteojax.run.open import open_run
from osteojax.train.loop import train

RNG = np.random.default_rng(0)
ONES = (1, 1, 1, 1)
RELATIVES = {
    "small_vit": functools.partial(vit, features=8, heads=2, depths=ONES),
    "small_swin": functools.partial(swin, features=32, depths=ONES),
    "small_convnext": functools.partial(convnext, depths=ONES, widths=(8, 16, 24, 32)),
}


@pytest.fixture(autouse=True)
def registered():
    with models.ARCHITECTURES.temporary():
        for name, builder in RELATIVES.items():
            architecture(name)(builder)
        yield


def test_pixels_from_opposite_edges_do_not_meet_in_a_shifted_window():
    """14 x 14 pixels, windows shifted by 3: what a pixel of the upper left corner changes."""
    attention = WindowAttention(32, 1, options=LayerOptions(), rngs=nnx.Rngs(0))
    x = RNG.normal(size=(1, 14, 14, 32)).astype(np.float32)
    other = x.copy()
    other[0, 1, 1] += 1.0
    call = nnx.jit(lambda attention, x, shift: attention(x, shift), static_argnums=2)
    for shift, last in ((0, 7), (3, 3)):
        changed = np.abs(np.asarray(call(attention, other, shift) - call(attention, x, shift)))
        rows, columns = np.nonzero(changed[0].max(-1) > 1e-7)
        assert (rows.max(), columns.max()) == (last - 1, last - 1), shift


def test_a_window_that_holds_the_whole_map_is_not_shifted():
    attention = WindowAttention(32, 1, options=LayerOptions(), rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.normal(size=(1, 5, 7, 32)), jnp.float32)
    np.testing.assert_array_equal(attention(x, 3), attention(x, 0))


@pytest.mark.parametrize(
    "name",
    ["small_vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("small_swin", "small_convnext"))],
)
def test_branches_are_left_out_for_an_image_at_a_time(name):
    """At a rate of 1/4 in the first stage, each branch by itself: an image is left as it is where all are out."""
    thinned = build(ModelSection(name, stochastic_depth=0.999999), name, 3, seed=0)
    rates = [getattr(thinned, f"stage{i}").blocks[0].drop.rate for i in range(1, 5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=1e-5)
    block = thinned.stage1.blocks[0]
    if name == "small_convnext":
        block.layer_scale[...] = jnp.ones_like(block.layer_scale[...])
    call = nnx.jit(lambda module, h: module(h))
    h = call(thinned.stem, jnp.asarray(RNG.random((64, 32, 32, 1)), jnp.float32))
    freeze_batch_norm(thinned, [path for path in Network(thinned).init()[0] if path.startswith("stage1")])
    moved = np.abs(np.asarray(call(block, h) - h, float)).reshape(64, -1).max(1)
    branches = 1 if name == "small_convnext" else 2
    assert (moved == 0).mean() == pytest.approx(0.25**branches, abs=0.15 if branches == 1 else 0.06)
    block.drop.deterministic = True
    assert (np.abs(np.asarray(call(block, h) - h)).reshape(64, -1).max(1) > 0).all()


@pytest.mark.parametrize(
    "name, preset",
    [
        ("small_vit", "stage4+"),
        pytest.param("small_swin", "all", marks=pytest.mark.slow),
        pytest.param("small_convnext", "head", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_batch_norm_learns_stops_and_is_opened(quick, tmp_path, name, preset):
    quick.model.name = name
    quick.preset = preset
    train(quick, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert not run.batch_stats
    first = Network(build(ModelSection(name, conv_impl="native"), name, 3, seed=0)).init()[0]
    parts = {
        path.split("/")[0]
        for path in run.params
        if np.any(np.asarray(run.params[path]) != np.asarray(first[path]))
    }
    learning = {"all": set(models.STAGES), "stage4+": {"stage4", "head"}, "head": {"head"}}
    assert parts == learning[preset]
    source = run.dataset().source("test")
    assert np.isfinite(run.logits(source)).all()
    features = run.features(source)
    assert features.shape == (11, {"small_vit": 8, "small_swin": 256, "small_convnext": 32}[name])
    assert np.ptp(features) > 0


def test_maps_of_tokens_lie_where_their_patches_lie():
    """Tokens behind the cut, by place; and behind `last_map` every patch has a say in the logits."""
    network = Network(build(ModelSection("small_vit", conv_impl="native"), "small_vit", 3, seed=0))
    params, stats = network.init()
    image = jnp.asarray(RNG.random((1, 32, 48, 1)), jnp.float32)
    cut = network.cut(network.last_map)
    tokens = jnp.arange(2 * 7 * 8, dtype=jnp.float32).reshape(2, 7, 8)
    np.testing.assert_array_equal(cut.by_place(tokens, image)[1, 1, 2], tokens[1, 1 + 1 * 3 + 2])
    h = cut.features(params, stats, image)
    gradient = jax.jit(jax.grad(lambda h: cut.from_features(params, stats, h)[0, 0]))(h)
    assert h.shape == (1, 7, 8) and (np.abs(cut.by_place(gradient, image)).max(-1) > 0).all()
