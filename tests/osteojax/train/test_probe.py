"""The linear probe: scikit-learn's minimum, chosen by validation, saved as a run like any other."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image
from sklearn.linear_model import LogisticRegression

from osteojax import config as configs
from osteojax import models
from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.models.build import ModelSection, build, build_shapes
from osteojax.models.convnext import NormHead
from osteojax.models.mobilenet import HiddenHead
from osteojax.models.network import Network
from osteojax.models.registry import architecture
from osteojax.models.vgg import VGGHead
from osteojax.run.open import open_run
from osteojax.train import logistic, prefix
from osteojax.train.experiment import read_experiment
from osteojax.train.prefix import PrefixCache
from osteojax.train.probe import STRENGTHS, check_head
from osteojax.train.step import Recipe

# One of each kind of head.
QUICK = ("resnet18", "vgg16_bn", "convnext_tiny", "mobilenet_v3_large", "vit_small_patch16")
SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def config(quick):
    quick.preset = "head"
    quick.loss.class_weights = "balanced"
    return quick


def probe(tmp_path, config, *more, name="run"):
    file = small.write_config(tmp_path / "config.py", config)
    return run(["probe", f"--config={file}", f"--workdir={tmp_path / name}", *more])


def path_of(workdir):
    with (workdir / "path.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("n, f", [(90, 12), pytest.param(20, 40, marks=pytest.mark.slow)])
def test_the_path_is_that_of_scikit_learn(n, f):
    rng = np.random.default_rng(n)
    labels = np.arange(n) % 3
    features = (rng.normal(3, 1, (n, f)) * rng.uniform(0.1, 5, f) + labels[:, None]).astype(np.float32)
    features[:, 3] = 0.7  # one that says nothing
    weights = np.asarray([0.5, 1.0, 2.0])[labels]
    strengths = STRENGTHS[::6]
    found = logistic.path(features, labels, weights, 3, strengths)
    assert found.converged.all()
    spread = features.std(0, dtype=float)
    z = (features - features.mean(0, dtype=float)) / np.where(spread < 1e-4, 1.0, spread)
    z[:, 3] = 0
    for number, strength in enumerate(strengths):
        model = LogisticRegression(C=1 / (strength * weights.sum()), tol=1e-10, max_iter=50_000)
        model.fit(z, labels, sample_weight=weights)
        np.testing.assert_allclose(
            found.penalised[number], model.coef_.T, atol=3e-4 * np.abs(model.coef_).max()
        )
        logits = features.astype(float) @ found.kernel[number] + found.bias[number]
        np.testing.assert_allclose(
            logits - logits.mean(1, keepdims=True), model.decision_function(z), atol=2e-3
        )
        log_p = model.predict_log_proba(z)[np.arange(n), labels]
        np.testing.assert_allclose(found.loss[number], -(weights * log_p).sum() / weights.sum(), rtol=1e-3)
    np.testing.assert_array_equal(found.kernel[:, 3], 0)


@pytest.mark.parametrize(
    "metric", ["balanced_accuracy", pytest.param("cross_entropy", marks=pytest.mark.slow)]
)
def test_validation_alone_chooses_and_the_checkpoint_answers_as_the_probe(tmp_path, config, metric):
    config.best.metric = metric
    assert probe(tmp_path, config) == 0
    workdir = tmp_path / "run"
    path, found = path_of(workdir), open_run(workdir)
    np.testing.assert_allclose([line["strength"] for line in path], STRENGTHS)
    values = [line[f"val/{metric}"] for line in path]
    expected = int(np.argmin(values) if metric == "cross_entropy" else np.argmax(values)) + 1
    assert found.step == found.best_step == expected
    # What is chosen by training loss is always the weakest: were it that, this would not tell.
    assert expected != len(path)
    # Recomputed by hand, from features of the network as it is before anything learns.
    dataset = PreparedDataset.open(config.data.dir)
    train, val = (found.features(dataset.source(split)) for split in ("train", "val"))
    labels = dataset.source("train").labels()
    count = np.bincount(labels)
    weights = (len(labels) / (3 * count))[labels]
    mean, spread = train.mean(0, dtype=float), train.std(0, dtype=float)
    model = LogisticRegression(
        C=1 / (STRENGTHS[expected - 1] * weights.sum()), tol=1e-10, max_iter=50_000
    ).fit((train - mean) / spread, labels, sample_weight=weights)
    logits = found.logits(dataset.source("val"))
    centred = logits - logits.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, model.decision_function((val - mean) / spread), atol=1e-3)
    val_labels = dataset.source("val").labels()
    cross_entropy = -np.log(np.exp(centred) / np.exp(centred).sum(1, keepdims=True))[
        np.arange(len(val_labels)), val_labels
    ].mean()
    np.testing.assert_allclose(cross_entropy, path[expected - 1]["val/cross_entropy"], atol=1e-4)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=SLOW) for n in small.SHIPPED])
def test_every_classifier_tells_what_its_last_layer_takes(name):
    """Shapes alone: one number for each row of the last kernel, and the head passes for a probe's."""
    experiment = read_experiment(configs.load("configs/train/probe_resnet50.py"))
    network = Network(build_shapes(ModelSection(name, conv_impl="native"), name, 3))
    params, stats = network.init()
    check_head(Recipe.of(experiment, network, 10, (1, 1, 1)), name)
    image = jax.ShapeDtypeStruct((2, 32, 48, 1), jnp.float32)
    found = jax.eval_shape(network.pre_logits_function(), params, stats, image)
    assert (found.shape, found.dtype) == ((2, params["head/fc/kernel"].shape[0]), jnp.float32)


def assert_probe_fits_the_last_layer_alone(tmp_path, config, name):
    """The checkpoint's logits are those that were chosen, and the rest of the network is as it began."""
    config.model.name = name
    assert probe(tmp_path, config, name=name) == 0
    found, path = open_run(tmp_path / name), path_of(tmp_path / name)
    logits = found.logits(found.dataset().source("val")).astype(float)
    labels = found.dataset().source("val").labels()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    cross_entropy = -log_p[np.arange(len(labels)), labels].mean()
    assert cross_entropy == pytest.approx(path[found.step - 1]["val/cross_entropy"], abs=1e-4)
    section = ModelSection(name, conv_impl="native")
    first, stats = Network(build(section, name, 3, seed=config.seed)).init()
    moved = {path for path in first if np.any(np.asarray(found.params[path]) != np.asarray(first[path]))}
    assert moved == {"head/fc/kernel", "head/fc/bias"}
    assert all(np.array_equal(found.batch_stats[path], stats[path]) for path in stats)


HEADS = {
    "norm": lambda classes, options, rngs: NormHead(8, classes, rngs=rngs),
    "hidden": lambda classes, options, rngs: HiddenHead(8, classes, options=options, rngs=rngs),
    "two hidden": lambda classes, options, rngs: VGGHead(8, classes, options=options, rngs=rngs),
}


@pytest.mark.parametrize(
    "kind", ["norm", *(pytest.param(kind, marks=SLOW) for kind in ("hidden", "two hidden"))]
)
def test_other_layers_of_a_head_stay_as_they_are(tmp_path, config, kind):
    """A small network under the heads of ConvNeXt, MobileNetV3 and VGG."""

    def network(arch, classes, *, image, options, rngs):
        whole = small.tiny(arch, classes, image=image, options=options, rngs=rngs)
        whole.head = HEADS[kind](classes, options, rngs)
        return whole

    with models.ARCHITECTURES.temporary():
        architecture("headed")(network)
        assert_probe_fits_the_last_layer_alone(tmp_path, config, "headed")


@SLOW
@pytest.mark.parametrize("name", small.SHIPPED)
def test_every_classifier_is_probed(tmp_path, config, name):
    assert_probe_fits_the_last_layer_alone(tmp_path, config, name)


def test_the_test_split_is_not_read_and_the_cache_is_that_of_training(tmp_path, config, cache, monkeypatch):
    asked = []
    original = PreparedDataset.source
    monkeypatch.setattr(
        PreparedDataset, "source", lambda self, split: asked.append(split) or original(self, split)
    )
    config.augment.flip = True
    assert probe(tmp_path, config) == 0
    assert set(asked) == {"train", "val"}
    config.augment.flip = False
    config.train.cache_prefix = True
    config.epochs = 0.5
    monkeypatch.setattr(prefix.PrefixCache, "_compute_shard", lambda *_: pytest.fail("computed again"))
    file = small.write_config(tmp_path / "train.py", config)
    assert run(["train", f"--config={file}", f"--workdir={tmp_path / 'train'}"]) == 0


def test_it_is_a_run_like_any_other_and_is_not_done_twice(tmp_path, config, capsys, monkeypatch):
    config.optimizer.ema_decay = 0.9
    assert probe(tmp_path, config) == 0
    workdir = tmp_path / "run"
    assert "* is chosen by val/cross_entropy" in capsys.readouterr().err
    assert run(["evaluate", f"--workdir={workdir}"]) == 0
    metrics = json.loads((workdir / "eval" / "test" / "metrics.json").read_text())
    assert metrics["origin"]["probe"]["chosen_by"] == "val/cross_entropy"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 26))
    stored = json.loads((workdir / "path.json").read_text())
    assert stored["strength"] == stored["path"][metrics["checkpoint_step"] - 1]["strength"]
    assert json.loads((workdir / "config.json").read_text())["dataset_fingerprint"]
    monkeypatch.setattr(PrefixCache, "__init__", lambda *_: pytest.fail("done again"))
    assert probe(tmp_path, config) == 0
    config.loss.class_weights = "none"
    assert probe(tmp_path, config) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.slow
def test_its_answers_page_and_comparison_are_those_of_a_run(tmp_path, config, capsys):
    assert (
        probe(tmp_path, config) == 0
        and probe(tmp_path, config, "--config.loss.class_weights=none", name="other") == 0
    )
    for name in ("run", "other"):
        assert run(["evaluate", f"--workdir={tmp_path / name}"]) == 0
    assert run(["report", f"--workdir={tmp_path / 'run'}"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    stored = json.loads((tmp_path / "run" / "path.json").read_text())
    number = open_run(tmp_path / "run").step
    assert f"number of the strength {number}, {stored['strength']:.3g}." in page
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "run"), str(tmp_path / "other")]) == 0
    assert "balanced_accuracy" in capsys.readouterr().out
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    answers = tmp_path / "answers.csv"
    assert run(["predict", f"--workdir={tmp_path / 'run'}", str(tmp_path / "a.png"), f"--out={answers}"]) == 0
    (answer,) = csv.DictReader(answers.open())
    assert answer["file"].endswith("a.png") and answer["predicted"]


@pytest.mark.parametrize(
    "change, message",
    [
        ("preset=stage4", "in this config learns: stage4; set --config.preset=head"),
        ("eval.split=none", "chosen by validation"),
        ("eval.split=test", "neither by what it learned from nor"),
        ("eval.split=later", "has no examples in it"),
        ("loss.name=focal", "a probe is logistic regression"),
        ("data.sampling=balanced", "sees every example once"),
        ("model.attention.blocks=1", "starts from random weights"),
    ],
)
def test_what_is_no_probe_is_one_sentence(tmp_path, config, capsys, change, message):
    config.loss.class_weights = "none"
    assert probe(tmp_path, config, f"--config.{change}") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("osteojax probe: ") and message in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_class_without_training_examples_is_named(tmp_path, config, capsys):
    data = small.write_dataset(tmp_path / "data", {"train": 4, "val": 7, "test": 6})
    assert probe(tmp_path, config, f"--data_dir={data}") == 2
    assert "no training example of osteoporosis" in capsys.readouterr().err
