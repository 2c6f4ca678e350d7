"""The examples of docs/extending.md, executed and used."""

import contextlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx
from sklearn.metrics import cohen_kappa_score

from osteojax import models
from osteojax.errors import UserError
from osteojax.metrics.predictions import Predictions
from osteojax.metrics.registry import METRICS
from osteojax.metrics.score import score_predictions, validation_metrics
from osteojax.models.network import Network
from osteojax.models.registry import architecture
from osteojax.run.open import open_run
from osteojax.train import augment
from osteojax.train.augmentations.registry import AUGMENTATIONS
from osteojax.train.loop import train
from osteojax.train.losses.registry import LOSSES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
REGISTRIES = (models.ARCHITECTURES, METRICS, AUGMENTATIONS, LOSSES)


def block(heading):
    """The code under a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.fullmatch(r".*?```python\n(.*?)```.*", section, re.DOTALL)[1]


@pytest.fixture
def registered(request):
    """Executes the block of the test's heading; what it registers is gone afterwards."""
    code = block(request.param)
    assert 10 <= len([line for line in code.splitlines() if line.strip()]) <= 40
    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.temporary())
        exec(compile(code, request.param, "exec"), {"__name__": "example"})
        yield


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("registered", ["A loss"], indirect=True)
def test_the_loss_is_lengs_and_its_settings_are_checked(registered):
    logits, label = RNG.normal(size=(7, 3)).astype(np.float32), RNG.integers(0, 3, 7)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = p[np.arange(7), label]
    found = LOSSES.bind("poly", {"label_smoothing": 0.1}, {"epsilon": 1.5}, "loss.settings")(logits, label)
    np.testing.assert_allclose(found, 1.5 * (1 - p) - np.log(p), rtol=1e-4)
    with pytest.raises(UserError, match=r"loss\.settings\.epsilon is -1"):
        LOSSES.bind("poly", {}, {"epsilon": -1.0}, "loss.settings")
    with pytest.raises(UserError, match=r"loss\.settings\.epsilom; did you mean loss\.settings\.epsilon"):
        LOSSES.bind("poly", {}, {"epsilom": 1.0}, "loss.settings")


@pytest.mark.parametrize("registered", ["An augmentation"], indirect=True)
def test_the_augmentation_is_off_by_default_draws_its_own_and_leaves_the_draws_of_others(registered):
    image = jnp.asarray(0.5 * RNG.random((6, 8, 8, 1)), jnp.float32)
    key = jax.random.key(0)
    assert augment.chain({"flip": False, "saturate": 0.0}).members == ()
    alone = augment.apply(key, image, augment.chain({"saturate": 0.5}))
    factors = np.median(alone / image, (1, 2, 3))
    assert len(set(np.round(factors, 3))) == 6 and (factors >= 1).all() and (factors < 2).all()
    flipped = augment.apply(key, image, augment.chain({"flip": True}))
    both = augment.apply(key, image, augment.chain({"flip": True, "saturate": 0.5}))
    np.testing.assert_allclose(both, np.minimum(flipped * factors[:, None, None, None], 1), rtol=1e-4)


@pytest.mark.parametrize("registered", ["A metric"], indirect=True)
def test_the_metric_is_scikit_learns_and_is_read_by_validation_and_evaluation(registered):
    logits, labels = RNG.normal(size=(60, 3)), RNG.integers(0, 3, 60)
    logits[np.arange(60), labels] += 1.0
    expected = cohen_kappa_score(labels, logits.argmax(-1))
    assert validation_metrics(logits, labels)["kappa"] == pytest.approx(expected)
    found = score_predictions(logits, labels, [str(i // 2) for i in range(60)], ("a", "b", "c"))["kappa"]
    assert found["value"] == pytest.approx(expected) and found["ci95"][0] < expected < found["ci95"][1]
    one_class = Predictions.unweighted(np.tile([[1.0, 0.0, 0.0]], (4, 1)), np.zeros(4, int))
    assert np.isnan(METRICS.get("kappa").function(one_class)).all()


@pytest.mark.parametrize("registered", ["A backbone"], indirect=True)
def test_the_backbone_trains_with_frozen_stages_and_restores(registered, prepared, tmp_path):
    config = small.quick_config(prepared)
    config.model.name, config.preset, config.epochs = "plain10", "stage4", 1.0
    train(config, tmp_path)
    run = open_run(tmp_path)
    assert run.record["origin"]["architecture"] == "plain10"
    assert np.isfinite(run.logits(run.dataset().source("test"))).all()
    fresh = models.create("plain10", rngs=nnx.Rngs(0), conv_impl="native")
    convolutions = [path for path in run.params if path.endswith("kernel") and "head" not in path]
    assert len(convolutions) == 9 and models.stages(fresh) == models.STAGES
    start = Network(fresh).init()[0]
    moved = {path.split("/")[0] for path in start if (np.asarray(start[path]) != run.params[path]).any()}
    assert moved == {"stage4", "head"}


def test_a_network_that_is_no_classifier_can_be_registered_but_not_trained(quick, tmp_path):
    with models.ARCHITECTURES.temporary():
        architecture("unet", classifies=False)(lambda *arguments, **keywords: None)
        assert "unet" in models.ARCHITECTURES and "unet" not in models.classifiers()
        quick.model.name = "unet"
        with pytest.raises(UserError, match="unet is no classifier; classifiers are"):
            train(quick, tmp_path)


def test_what_was_registered_in_the_other_tests_is_gone():
    assert not {"poly", "saturate", "kappa", "plain10"} & {
        name for registry in REGISTRIES for name in registry
    }
