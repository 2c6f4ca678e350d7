"""The transformer behind a convolutional network, by hand, and in a run with its maps."""

import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx
from PIL import Image

from data_prep.preprocess import PreprocessSpec
from osteojax.errors import UserError
from osteojax.explain.attention import attention_map
from osteojax.models.build import ModelSection, build, build_shapes
from osteojax.models.layers.attention_head import AttentionHead, AttentionSection, sine_positions
from osteojax.models.layers.convolution import LayerOptions
from osteojax.models.network import Network
from osteojax.predict.explain import explain_files
from osteojax.report.gallery import explained
from osteojax.run.open import open_run
from osteojax.train.loop import train

SECTION = AttentionSection(blocks=2, width=8, heads=2)


def head(seed=0):
    made = AttentionHead(5, 3, SECTION, options=LayerOptions(), rngs=nnx.Rngs(seed))
    made.score.kernel[...] = 3 * made.score.kernel[...]
    return made


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_positions_are_sines_of_row_and_column():
    found = sine_positions(3, 4, 8)
    for row, column in ((0, 0), (2, 1), (1, 3)):
        wanted = [f(place / 100**k) for place in (row, column) for f in (np.sin, np.cos) for k in (0, 1)]
        np.testing.assert_allclose(found[row * 4 + column], wanted, atol=1e-6)


def test_the_head_is_the_mean_of_its_tokens_by_one_query_and_looks_by_rollout():
    made, h = head(), np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    x = h.reshape(2, 12, 5) @ np.asarray(made.narrow.kernel[...]) + np.asarray(made.narrow.bias[...])
    x = x + sine_positions(3, 4, 8)
    call, mixtures = nnx.jit(lambda module, x: module(x)), []
    for block in made.blocks:
        qkv = np.asarray(block.attn.qkv(block.norm1(x))).reshape(2, 12, 3, 2, 4)
        scores = np.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) / np.sqrt(4)
        mixtures.append(softmax(scores).mean(1))
        x = np.asarray(call(block, x))
    tokens = np.asarray(made.final(x))
    share = softmax((tokens @ np.asarray(made.score.kernel[...]))[..., 0])
    np.testing.assert_allclose(
        call(made, h), np.asarray(made.fc((share[..., None] * tokens).sum(1))), rtol=1e-4, atol=1e-5
    )
    rolled = share[:, None] @ (0.5 * (mixtures[1] + np.eye(12))) @ (0.5 * (mixtures[0] + np.eye(12)))
    look = np.asarray(nnx.jit(lambda made, h: made.look(h))(made, h))
    np.testing.assert_allclose(look, rolled.reshape(2, 3, 4), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(look.sum((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("head", ["softmax", "coral"])
def test_it_takes_the_place_of_the_head_and_keeps_the_kind_of_the_last_layer(head):
    made = build_shapes(ModelSection("tiny", head=head, attention=SECTION, dropout=0.1), "tiny", 3)
    paths = set(Network(made).init()[0])
    assert {"head/narrow/kernel", "head/blocks/1/attn/qkv/kernel", "head/score/kernel"} <= paths
    assert ("head/fc/gaps" in paths) == (head == "coral") and made.head.narrow.kernel.shape == (8, 8)
    assert {path.split("/")[0] for path in paths} == {"stem", "stage1", "stage2", "stage3", "stage4", "head"}
    plain = build(ModelSection("tiny"), "tiny", 3, seed=0)
    assert Network(plain).cut().attention is None


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("vit_small_patch16", {}, "vit_small_patch16, which is a transformer"),
        ("tiny", {"head": "simsiam"}, "model.head='simsiam'"),
        ("tiny", {"attention": AttentionSection(1, 12, 8)}, "width=12 is no multiple of 4 and of"),
    ],
)
def test_what_does_not_go_together_is_refused(name, changes, message):
    with pytest.raises(UserError, match=message):
        build_shapes(ModelSection(name, **{"attention": SECTION, **changes}), name, 3)


@pytest.mark.slow
def test_a_run_learns_with_it_and_leaves_what_is_frozen(quick, tmp_path):
    quick.preset = "head"
    quick.model.attention.update(blocks=1, width=8, heads=2)
    train(quick, tmp_path / "run")
    run = open_run(tmp_path / "run")
    first = Network(
        build(ModelSection("tiny", attention=AttentionSection(1, 8, 2)), "tiny", 3, seed=0)
    ).init()[0]
    moved = {path for path in run.params if np.any(np.asarray(run.params[path]) != np.asarray(first[path]))}
    assert {"head/blocks/0/attn/qkv/kernel", "head/score/kernel", "head/fc/kernel"} <= moved
    assert not [path for path in moved if not path.startswith("head/")]
    image = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 1)), jnp.float32)
    found = np.asarray(attention_map(run.network.cut(), run.params, run.batch_stats, image))
    assert found.shape == (2, 32, 32) and found.min() >= 0 and np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 0


@pytest.mark.slow
def test_report_and_prediction_show_where_it_looks(quick, tmp_path):
    quick.model.attention.update(blocks=1, width=8, heads=2)
    train(quick, tmp_path / "run")
    run = open_run(tmp_path / "run")
    source = run.dataset().source("test")
    found = explained(run, source, None, run.logits(source), np.asarray(source.labels()))
    assert all(
        shown.attention[:2] == b"\xff\xd8" and shown.attention != shown.picture for shown in found.shown
    )
    Image.fromarray(np.arange(6400, dtype=np.uint8).reshape(80, 80)).save(tmp_path / "a.png")
    spec = PreprocessSpec(image_size=small.SIZE)
    written = explain_files(run, spec, [(tmp_path / "a.png", 0)], tmp_path / "maps")
    assert [path.name for path in written] == ["00000-a.png", "00000-a-attention.png"]
    first, second = (np.asarray(Image.open(path)) for path in written)
    assert first.shape == second.shape and np.any(first != second)
