"""SimSiam against the paper's formulas in numpy; what it must not read; and what stop-gradient is there for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from osteojax import config as configs
from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.models.build import ModelSection, build
from osteojax.models.network import Network
from osteojax.run.open import open_run
from osteojax.run.origin import told
from osteojax.train import augment, loop, siamese
from osteojax.train.loop import train


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_outputs(rows=6, d=4):
    return tuple(np.random.default_rng(0).normal(size=(2, rows, 2 * d)).astype(np.float32))


def test_the_loss_is_chens_and_hes():
    first, second = random_outputs()
    (p1, z1), (p2, z2) = (np.split(output.astype(np.float64), 2, -1) for output in (first, second))
    d12, d21 = (-(normalised(p) * normalised(z)).sum(-1) for p, z in ((p1, z2), (p2, z1)))
    found = siamese.similarity_loss((jnp.asarray(first), jnp.asarray(second)))
    np.testing.assert_allclose(found, d12 / 2 + d21 / 2, atol=1e-6)


def test_no_gradient_flows_into_what_is_predicted():
    first, second = (jnp.asarray(output) for output in random_outputs())
    gradients = jax.grad(lambda *outputs: siamese.similarity_loss(outputs).sum(), (0, 1))(first, second)
    for gradient, output, other in zip(gradients, (first, second), (second, first), strict=True):
        dp, dz = jnp.split(gradient, 2, -1)
        assert not dz.any()
        # d/dp of -p.z / |p| with z of length 1: -(z - (z.p) p / |p|^2) / |p|.
        p, z = np.split(np.asarray(output), 2, -1)[0], normalised(np.split(np.asarray(other), 2, -1)[1])
        length, unit = np.linalg.norm(p, axis=-1, keepdims=True), normalised(p)
        expected = -(z - (z * unit).sum(-1, keepdims=True) * unit) / length / 2
        np.testing.assert_allclose(dp, expected, rtol=1e-4, atol=1e-6)


def test_the_spread_is_that_of_the_rows_that_count():
    first, second = random_outputs(rows=40)
    z = [np.split(output, 2, -1)[1] for output in (first, second)]
    mask = (np.arange(40) < 25).astype(np.float32)
    found = siamese.embedding_metrics(jnp.asarray(np.concatenate(z, -1)), jnp.asarray(mask))
    expected = np.mean([normalised(view[:25]).std(0) for view in z])
    np.testing.assert_allclose(found["embedding_std"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["healthy_std"], 0.5)
    same = jnp.ones((40, 8)) * jnp.arange(1.0, 9.0)
    assert siamese.embedding_metrics(same, jnp.ones(40))["embedding_std"] < 1e-3


def test_directions_that_are_everywhere_alike_have_the_healthy_spread():
    z = np.random.default_rng(0).normal(size=(4000, 32)).astype(np.float32)
    found = siamese.embedding_metrics(jnp.asarray(np.concatenate([z, z], -1)), jnp.ones(4000))
    np.testing.assert_allclose(found["embedding_std"], found["healthy_std"], rtol=0.02)


def test_the_two_views_of_an_image_differ_and_are_those_of_the_key():
    chain = augment.chain({"gain": 0.5})
    image = jnp.full((3, 32, 32, 1), 0.5)
    views = siamese.two_views(jax.random.key(0), image, chain)
    assert views.shape == (3, 2, 32, 32, 1)
    assert len(np.unique(np.asarray(views[:, :, 0, 0, 0]))) == 6
    np.testing.assert_array_equal(views, siamese.two_views(jax.random.key(0), image, chain))


def test_the_head_is_the_papers_and_padding_counts_nothing():
    model = build(ModelSection("tiny", head="simsiam"), "tiny", 3, seed=0)
    network = Network(model)
    params, stats = network.init()
    head = {path.removeprefix("head/"): value.shape for path, value in params.items() if path[:5] == "head/"}
    assert {path: shape for path, shape in head.items() if path.endswith("kernel")} == {
        **{f"projection/{i}/dense/kernel": (8, 8) for i in range(3)},
        "narrow/dense/kernel": (8, 2),
        "widen/kernel": (2, 8),
    }
    assert sum(path.endswith("norm/scale") for path in head) == 4
    apply = jax.jit(network.train_function(set(params)))
    image = jax.random.uniform(jax.random.key(0), (8, 32, 32, 1))
    mask = (jnp.arange(8) < 6).astype(jnp.float32)
    key = jax.random.key(1)
    padded, moved = apply(params, stats, image.at[6:].set(0.9), mask, key)
    alone, expected = apply(params, stats, image[:6], jnp.ones(6), key)
    np.testing.assert_allclose(padded[:6], alone, atol=1e-4)
    for path in moved:
        np.testing.assert_allclose(moved[path], expected[path], atol=1e-5, err_msg=path)
    assert any(path.startswith("head/") for path in moved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval.split": "val"}, r"eval\.split='val' \(set it to 'none'\)"),
        ({"loss.label_smoothing": 0.1, "mix.mixup": 0.2}, r"loss\.\*, mix\.\*"),
        ({"data.sampling": "balanced"}, "sampling"),
        ({"model.dropout": 0.1}, "dropout"),
        ({"optimizer.accumulate": 2}, "accumulate"),
        ({"train.cache_prefix": True}, "cache_prefix"),
        (dict.fromkeys(("augment.flip", "augment.gain"), 0), "switches nothing on"),
        pytest.param(
            {"model.name": "vgg16_bn"},
            "vgg16_bn has more than pooling and one layer in its head",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_asks_for_labels_or_one_view_is_refused(prepared, tmp_path, changes, said):
    config = unlabelled(prepared)
    for key, value in changes.items():
        configs.set_value(config, key, bool(value) if key == "augment.flip" else value)
    with pytest.raises(UserError, match=said):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def unlabelled(data):
    config = small.quick_config(data)
    config.model.head = "simsiam"
    config.eval.split = "none"
    config.augment.update(flip=True, gain=0.3)
    return config


@pytest.fixture(scope="module")
def pretrained(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("simsiam") / "run"
    train(unlabelled(prepared), workdir)
    return workdir


@pytest.mark.slow
def test_labels_are_not_read(prepared, pretrained, tmp_path, monkeypatch):
    """The same run, to the bit, where every label is another one."""
    from osteojax.data.dataset import Split

    original = Split.__getitems__

    def relabelled(self, indices):
        return [{**example, "label": 2 - example["label"]} for example in original(self, indices)]

    monkeypatch.setattr(Split, "__getitems__", relabelled)
    train(unlabelled(prepared), tmp_path / "run")
    found, expected = (open_run(place, "last", classifies=False) for place in (tmp_path / "run", pretrained))
    assert found.record["arrays"] == expected.record["arrays"]


@pytest.mark.slow
def test_killed_it_goes_on_to_the_bit(prepared, pretrained, tmp_path, monkeypatch):
    config = unlabelled(prepared)
    original, calls = loop.to_devices, iter(range(10**6))

    def failing(batch, sharding):
        if next(calls) == 4:
            raise RuntimeError("killed")
        return original(batch, sharding)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "to_devices", failing)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run") == 3
    found, expected = (open_run(place, "last", classifies=False) for place in (tmp_path / "run", pretrained))
    assert found.record["arrays"] == expected.record["arrays"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (pretrained / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_devices_agree(prepared, tmp_path):
    lines = []
    for data, fsdp in ((1, 1), (2, 2)):
        config = unlabelled(prepared)
        # Adam would make much of the gradient of a bias before batch norm, which is rounding alone.
        config.optimizer.update(name="sgd", learning_rate=0.01)
        config.mesh.update(data=data, fsdp=fsdp)
        train(config, tmp_path / f"{data}{fsdp}")
        text = (tmp_path / f"{data}{fsdp}" / "metrics.jsonl").read_text()
        lines.append([json.loads(line) for line in text.splitlines()])
    for found, expected in zip(*lines, strict=True):
        for name in ("train/loss", "train/embedding_std"):
            np.testing.assert_allclose(found[name], expected[name], atol=2e-4)


def test_its_log_watches_the_embeddings(pretrained):
    last = json.loads((pretrained / "metrics.jsonl").read_text().splitlines()[-1])
    assert "train/accuracy" not in last and last["train/healthy_std"] == pytest.approx(8**-0.5)
    assert 0 < last["train/embedding_std"] <= last["train/healthy_std"] * 1.01
    assert -1 <= last["train/loss"] <= 1


def test_a_collapse_is_told_and_only_that(caplog):
    siamese.tell_collapse({"loss": 0.1}, 1)
    siamese.tell_collapse({"embedding_std": 0.2, "healthy_std": 0.25}, 2)
    assert not caplog.records
    siamese.tell_collapse({"embedding_std": 0.02, "healthy_std": 0.25}, 3)
    assert "step 3: the embeddings collapse" in caplog.text


@pytest.mark.parametrize("command", ["evaluate", "report", "export"])
def test_it_classifies_nothing_and_says_what_to_do(pretrained, capsys, tmp_path, command):
    flags = [f"--out={tmp_path / 'out'}", "--format=safetensors"] if command == "export" else []
    assert run([command, f"--workdir={pretrained}", *flags]) == 2
    assert "learned without labels" in capsys.readouterr().err


def test_a_classifier_starts_from_its_backbone(prepared, pretrained, tmp_path):
    config = small.quick_config(prepared)
    config.update(init="imagenet", weights=str(pretrained), preset="head", epochs=1.0)
    train(config, tmp_path / "run")
    found, before = open_run(tmp_path / "run"), open_run(pretrained, classifies=False)
    for name in ("params", "batch_stats"):
        taken = {path: x for path, x in getattr(found, name).items() if not path.startswith("head/")}
        assert taken
        for path, value in taken.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(getattr(before, name)[path]))
    assert "learned: without labels (SimSiam)" in told(found.record["origin"])
    config.transfer.head = "keep"
    with pytest.raises(UserError, match="of one kind that classifies"):
        train(config, tmp_path / "kept")


@pytest.mark.slow
def test_without_stop_gradient_it_collapses_and_with_it_it_does_not(prepared, tmp_path, monkeypatch, caplog):
    """Figure 2 of the paper, in small."""

    def spread(name):
        config = unlabelled(prepared)
        config.epochs = 100.0
        config.log_every = 30
        config.optimizer.update(name="sgd", learning_rate=0.05, schedule="cosine", clip_norm=0.0)
        train(config, tmp_path / name)
        last = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        return last["train/embedding_std"] / last["train/healthy_std"]

    kept = spread("with")
    assert not [r for r in caplog.records if "collapse" in r.message]
    monkeypatch.setattr(siamese.jax.lax, "stop_gradient", lambda x: x)
    lost = spread("without")
    assert kept > 0.4 and lost < 0.2
    assert "the embeddings collapse" in caplog.text
