import logging

import jax
import numpy as np
import pytest
import small

from osteojax import models
from osteojax.errors import UserError
from osteojax.models import build as building
from osteojax.models.network import Network
from osteojax.train import initialise as module
from osteojax.train.experiment import read_experiment
from osteojax.weights import WeightsFile


def build(config, architecture, classes):
    experiment = read_experiment(config)
    return building.build(experiment.model, architecture, classes, seed=experiment.seed)


def initialise(config, classes, devices):
    return module.initialise(read_experiment(config), classes, devices)


def params_of(model):
    return {path: np.asarray(x) for path, x in Network(model).init()[0].items()}


@pytest.fixture
def published(quick, monkeypatch):
    """Weights of `tiny` as if published, and none for anything else."""
    original = build(quick, "tiny", 1000)
    params, stats = Network(original).init()
    arrays = {path: np.asarray(x) + 1 for path, x in (params | stats).items()}

    def load(source, arch):
        if arch != "tiny" or source not in ("imagenet", "tiny.npz"):
            raise UserError(f"cannot fetch {source} for {arch}")
        return WeightsFile("tiny", arrays, {"source": source})

    monkeypatch.setattr(module.weights, "load", load)
    return arrays


def test_imagenet_sets_all_but_the_head(quick, published):
    quick.init = "imagenet"
    model, origin = initialise(quick, 3, 1)
    assert origin == {"architecture": "tiny", "init": "imagenet", "weights": {"source": "imagenet"}}
    found, fresh = params_of(model), params_of(build(quick, "tiny", 3))
    for path in found:
        expected = fresh[path] if path.startswith("head/") else published[path]
        np.testing.assert_array_equal(found[path], expected, err_msg=path)


def test_imagenet_without_weights_stops_with_what_to_do(quick):
    quick.update(init="imagenet", weights="/nowhere/weights.pth")
    with pytest.raises(UserError, match=r"/nowhere/weights\.pth"):
        initialise(quick, 3, 1)


def test_imagenet_or_random_falls_back_first_on_the_other_architecture(quick, published, caplog):
    caplog.set_level(logging.WARNING)
    quick.update(init="imagenet_or_random")
    quick.model.update(name="resnet18", fallback="tiny")
    model, origin = initialise(quick, 3, 1)
    assert origin["architecture"] == model.arch == "tiny" and origin["init"] == "imagenet"
    assert "no ImageNet weights for resnet18" in caplog.text


def test_imagenet_or_random_goes_on_with_random_weights_and_says_so(quick, monkeypatch, caplog):
    monkeypatch.setattr(module.weights, "load", lambda *_: (_ for _ in ()).throw(UserError("no network")))
    quick.init = "imagenet_or_random"
    _, origin = initialise(quick, 3, 1)
    assert origin == {"architecture": "tiny", "init": "random"}
    assert "RANDOM" in caplog.text


def test_named_weights_are_never_replaced_by_random_ones(quick, published):
    quick.update(init="imagenet_or_random", weights="/nowhere.npz")
    with pytest.raises(UserError, match="nowhere"):
        initialise(quick, 3, 1)


def test_unknown_choices_are_errors(quick):
    quick.init = "pretrained"
    with pytest.raises(UserError, match=r"init is 'pretrained'; it must be one of 'imagenet'"):
        initialise(quick, 3, 1)
    quick.init = "random"
    quick.model.batch_norm = "local"
    with pytest.raises(UserError, match=r"model.batch_norm is 'local'"):
        build(quick, "tiny", 3)


def test_the_seed_determines_the_weights(quick):
    first, again = params_of(build(quick, "tiny", 3)), params_of(build(quick, "tiny", 3))
    assert all((first[k] == again[k]).all() for k in first)
    quick.seed = 1
    other = params_of(build(quick, "tiny", 3))
    assert any((first[k] != other[k]).any() for k in first)
    assert small.tiny and models.ARCHITECTURES.get("tiny").name == "tiny" and jax.device_count() >= 1
