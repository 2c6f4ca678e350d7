"""Two stages as one config: in which order, resumed where it was, and refused before anything is written."""

import shutil

import numpy as np
import pytest
import small
from manifests import change_manifest, datasets

from osteojax import storage
from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.run.open import open_run
from osteojax.train import loop
from osteojax.train.stages import train_stages


def staged(folder):
    """Four steps on the first dataset, then two on the second, from the best of the first."""
    config = small.quick_config(folder / "second")
    config.update(init="imagenet", epochs=1.0)
    config.pretrain = small.quick_config(folder / "first")
    for stage in (config, config.pretrain):
        stage.checkpoint.every_steps = 1
        stage.preset = "stage4"
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The data, and a run in two stages, started by the command line."""
    folder = tmp_path_factory.mktemp("stages")
    datasets(folder)
    file = small.write_config(folder / "config.py", staged(folder))
    assert run(["train", f"--config={file}", f"--workdir={folder / 'run'}"]) == 0
    return folder


def test_the_second_stage_starts_from_the_best_of_the_first_and_is_the_run(whole, tmp_path):
    final, first = open_run(whole / "run", 1), open_run(whole / "run" / "stage1")
    origin = final.record["origin"]
    assert (origin["init"], origin["weights"]["source"]) == ("run", "stage1")
    assert origin["weights"]["step"] == first.step == first.best_step
    assert first.record["dataset_fingerprint"] == origin["weights"]["dataset_fingerprint"] == "generated-1"
    assert final.record["dataset_fingerprint"] == "generated-2"
    # Frozen in both: what stage 4 stands on came along.
    np.testing.assert_array_equal(
        np.asarray(final.params["stem/conv/kernel"]), np.asarray(first.params["stem/conv/kernel"])
    )
    metrics = evaluate_run(whole / "run", out=tmp_path / "out")
    assert metrics["dataset_fingerprint"] == "generated-2" and metrics["n"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(("killed_at", "stage1", "stage2"), [(2, True, False), (5, True, True)])
def test_killed_in_either_stage_it_goes_on_there_and_is_the_same_to_the_bit(
    whole, tmp_path, monkeypatch, killed_at, stage1, stage2
):
    original, calls = loop.to_devices, iter(range(10**6))

    def failing(batch, sharding):
        if next(calls) == killed_at:
            raise RuntimeError("killed")
        return original(batch, sharding)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "to_devices", failing)
        with pytest.raises(RuntimeError, match="killed"):
            train_stages(staged(whole), tmp_path / "run")
    assert (tmp_path / "run" / "stage1" / "checkpoints").is_dir() == stage1
    assert (tmp_path / "run" / "checkpoints").is_dir() == stage2
    done = train_stages(staged(whole), tmp_path / "run")
    assert done == 6 - killed_at
    for folder in (".", "stage1"):
        found, expected = (open_run(place / "run" / folder, "last") for place in (tmp_path, whole))
        assert found.record["arrays"] == expected.record["arrays"]  # CRCs of all, the optimizer's too
        lines = [(place / "run" / folder / "metrics.jsonl").read_text() for place in (tmp_path, whole)]
        assert lines[0] == lines[1]
    assert train_stages(staged(whole), tmp_path / "run") == 0


def test_once_it_has_begun_the_second_stage_needs_the_first_no_more(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stage1")
    config = staged(whole)
    config.pretrain.data.dir = "/gone"
    assert train_stages(config, tmp_path / "run") == 0
    assert not (tmp_path / "run" / "stage1").exists()


def test_the_first_stage_of_a_started_run_cannot_be_another(whole):
    config = staged(whole)
    config.pretrain.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"pretrain\.optimizer\.learning_rate: 0\.001 -> 0\.5\); nothing can"):
        train_stages(config, whole / "run", force=True)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pretrain.model.name", "resnet18", "give both one name"),
        ("weights", "imagenet", "ask for others"),
        ("init", "random", "ask for others"),
        ("pretrain.epoch", 3.0, "no config key epoch"),
        ("pretrain.eval.split", "dev", "eval.split='dev'"),
        ("eval.split", "dev", "eval.split='dev'"),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_the_first_one_is_trained(
    whole, tmp_path, key, value, said
):
    config = staged(whole)
    with config.unlocked():
        section = config.pretrain if key.startswith("pretrain") else config
        *parents, last = key.removeprefix("pretrain.").split(".")
        for parent in parents:
            section = section[parent]
        with section.unlocked():
            section[last] = value
    with pytest.raises(UserError, match=said):
        train_stages(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_would_leak_is_refused_before_the_first_stage_is_trained(whole, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(whole / name, tmp_path / name)
    config = staged(tmp_path)
    change_manifest(tmp_path / "first", "train", sha256="same")
    change_manifest(tmp_path / "second", "test", sha256="same")
    with pytest.raises(UserError, match=r"0 patients \(by id\) and 1 images"):
        train_stages(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_the_first_stage_are_published_too(whole):
    assert storage.committed_steps(whole / "run") == ["1", "2", *(f"stage1/{n}" for n in (3, 4))]
    names = storage.snapshot(whole / "run")
    logs = [i for i, name in enumerate(names) if "checkpoints" not in name.split("/")]
    assert min(logs) == len(names) - len(logs) and any(
        name.startswith("stage1/checkpoints/") for name in names
    )
