"""The frozen prefix is computed once, and training from what was kept is training."""

import dataclasses
import json
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from processes import command, launch

from osteojax.data import memory
from osteojax.data.activations import EXAMPLES_PER_SHARD, Activations, Spec, Store
from osteojax.data.batches import BatchPlan, plan_for, train_iterator
from osteojax.data.dataset import PreparedDataset
from osteojax.data.memory import InMemory
from osteojax.data.pixels import unpack
from osteojax.devices.mesh import batch_sharding, make_mesh
from osteojax.errors import UserError
from osteojax.models import POOL
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.train import augment, feed, loop, prefix
from osteojax.train.experiment import read_experiment
from osteojax.train.loop import train
from osteojax.train.step import Recipe
from tests.osteojax.train.test_loop import assert_close, assert_same_bits, metrics_of, on, saved

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def cached(prepared):
    config = small.quick_config(prepared)
    config.preset = "stage4"
    config.optimizer.ema_decay = 0.9
    config.train.cache_prefix = True
    return config


def without(config):
    config = config.copy_and_resolve_references()
    config.train.cache_prefix = False
    return config


def recipe_of(config):
    experiment = read_experiment(config)
    network = Network(build(experiment.model, "tiny", 3, seed=config.seed))
    return Recipe.of(experiment, network, 100, (1, 1, 1))


def feed_of(config):
    """What the first step of a run reads."""
    recipe, dataset = recipe_of(config), PreparedDataset.open(config.data.dir)
    mesh = make_mesh(1, 1, jax.devices()[:1])
    plan = plan_for(batch_sharding(mesh), dataset.splits["train"], 8)
    return feed.choose(recipe, "tiny", dataset, recipe.init_state(*recipe.network.init()), 0, plan, mesh)


def computed(config, upto="stage3", split="train"):
    """The activations of a split, by the network called by hand."""
    network = recipe_of(config).network
    image, _ = (source := PreparedDataset.open(config.data.dir).source(split)).read(range(len(source)))
    return jax.jit(network.cut(upto).features)(*network.init(), image)


def everything_of(examples):
    return examples.read(range(len(examples)))[0]


@pytest.mark.parametrize(
    "preset",
    ["stage4", pytest.param("head", marks=pytest.mark.slow), pytest.param("stage2+", marks=pytest.mark.slow)],
)
def test_training_from_the_cache_is_training_to_the_bit(cached, cache, tmp_path, preset):
    cached.preset = preset
    train(without(cached), tmp_path / "images")
    assert not cache.exists()
    train(cached, tmp_path / "cache_run")
    assert metrics_of(tmp_path / "cache_run") == metrics_of(tmp_path / "images")
    assert_same_bits(saved(tmp_path / "cache_run"), saved(tmp_path / "images"))


@pytest.mark.parametrize(
    "preset, upto",
    [("head", POOL), ("stage4", "stage3"), ("stage2+", "stage1"), ("bn_affine", None), ("all", None)],
)
def test_the_prefix_ends_before_the_first_part_that_learns(cached, preset, upto):
    cached.preset = preset
    assert prefix.frozen_prefix(recipe_of(cached), 0) == upto


def test_where_nothing_is_frozen_it_says_so_and_reads_images(cached, cache, caplog):
    cached.preset = "all"
    found = feed_of(cached)
    assert found.start == "stem" and found.train.element()[0] == (32, 32, 1)
    assert "the first part of the network learns from step 0 on" in caplog.text
    assert not cache.exists()


def test_another_run_computes_nothing(cached, cache, monkeypatch, caplog):
    feed_of(cached)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.array_record")}
    assert len(before) == 2
    monkeypatch.setattr(prefix.PrefixCache, "_compute_shard", lambda *_: pytest.fail("computed again"))
    cached.optimizer.learning_rate = 2e-3  # another run of a sweep
    caplog.set_level("INFO")
    feed_of(cached)
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*.array_record")}
    assert "all of them are there" in caplog.text


@pytest.mark.parametrize("hold", ["disk", "host", "device"])
def test_what_is_read_is_what_the_network_makes_of_the_images(cached, hold):
    cached.data.hold = hold
    found = feed_of(cached)
    train_values = np.asarray(found.held[0]) if hold == "device" else everything_of(found.train)
    np.testing.assert_allclose(train_values, computed(cached), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        everything_of(found.validation), computed(cached, split="val"), rtol=1e-6, atol=1e-6
    )
    assert (found.train.labels() == PreparedDataset.open(cached.data.dir).source("train").labels()).all()


# --- a stale cache -----------------------------------------------------------------------------------------------


def keys(cache):
    return {folder.name for folder in cache.iterdir()}


def other_weights(config, tmp_path):
    config.seed = 1  # random weights come from it; where no image is augmented nothing else of it counts


def other_prefix(config, tmp_path):
    config.preset = "stage3+"


def other_dataset(config, tmp_path):
    config.data.dir = str(
        small.write_dataset(tmp_path / "other", {"train": 22, "val": 7, "test": 11}, seed=3)
    )


def other_preprocessing(config, tmp_path):
    """A dataset that keeps its fingerprint, although its pixels were made otherwise."""
    config.data.dir = str(small.write_dataset(tmp_path / "other", {"train": 22, "val": 7, "test": 11}))
    for path in (tmp_path / "other").glob("*.json"):
        path.write_text(path.read_text().replace('"aspect": "squash"', '"aspect": "letterbox"'))


@pytest.mark.parametrize("change", [other_weights, other_prefix, other_dataset, other_preprocessing])
def test_activations_of_something_else_are_not_found(cached, cache, tmp_path, change):
    feed_of(cached)
    before = keys(cache)
    change(cached, tmp_path)
    found = feed_of(cached)
    assert len(keys(cache) - before) == 2  # of training and of validation
    expected = computed(cached, upto="stage2" if change is other_prefix else "stage3")
    np.testing.assert_allclose(everything_of(found.train), expected, rtol=1e-6, atol=1e-6)


def test_weights_behind_the_prefix_do_not_count(cached, cache):
    """Seeds of one pretrained network differ in their heads, and share the cache."""
    feed_of(cached)
    before = keys(cache)
    recipe, dataset = recipe_of(cached), PreparedDataset.open(cached.data.dir)
    params, stats = recipe.network.init()
    params = {path: p + 1 if path.startswith(("stage4", "head")) else p for path, p in params.items()}
    mesh = make_mesh(1, 1, jax.devices()[:1])
    plan = plan_for(batch_sharding(mesh), dataset.splits["train"], 8)
    feed.choose(recipe, "tiny", dataset, recipe.init_state(params, stats), 0, plan, mesh)
    assert keys(cache) == before


@pytest.mark.parametrize("field", ["weights", "upto", "dataset", "preprocessing"])
def test_a_folder_under_a_false_name_is_refused(cached, cache, tmp_path, field):
    feed_of(cached)
    for folder in cache.iterdir():
        spec = json.loads((folder / "spec.json").read_text())
        spec[field] = "another"
        (folder / "spec.json").write_text(json.dumps(spec, sort_keys=True, indent=1))
    with pytest.raises(
        UserError, match=rf"holds activations of something else \({field}: 'another' -> .*delete it"
    ):
        feed_of(cached)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weights": NaN}', "\x00"])
def test_a_spec_that_is_none_is_refused(cached, cache, tmp_path, text):
    feed_of(cached)
    for folder in cache.iterdir():
        (folder / "spec.json").write_text(text)
    with pytest.raises(UserError, match=r"holds activations of something else .*delete it"):
        feed_of(cached)


# --- what can go wrong -------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    spec = Spec(
        weights="w", network="n", upto="stage3", dataset="d", preprocessing="p", part="train", views=2,
        examples=EXAMPLES_PER_SHARD + 6, augmentation="a", shape=(2, 3), dtype="float32", computed_by="cpu",
    )  # fmt: skip
    return Store(tmp_path / "store", spec)


def fill(store):
    values = (
        np.random.default_rng(0).normal(size=(store.spec.views, store.spec.examples, 2, 3)).astype(np.float32)
    )
    for shard, (view, rows) in enumerate(store.spec.shards):
        store.write(shard, values[view, rows.start : rows.stop])
    return values


def test_each_view_of_each_example_is_read_in_the_order_that_is_asked_for(store):
    values = fill(store)
    activations = Activations([store], np.arange(store.spec.examples, dtype=np.int32))
    order = np.random.default_rng(1).permutation(store.spec.examples)[:20].tolist()
    for view in (0, 1):
        found, labels = activations.read(order, view)
        np.testing.assert_array_equal(found, values[view, order])
        np.testing.assert_array_equal(labels, order)
    assert store.spec.bytes == values.nbytes


def test_parts_of_a_split_follow_each_other(tmp_path, store):
    first = fill(store)
    other = Store(tmp_path / "store", Spec(**vars(store.spec) | {"part": "fold1", "examples": 5}))
    second = fill(other)
    activations = Activations([store, other], np.zeros(store.spec.examples + 5, np.int32))
    wanted = [store.spec.examples + 2, 3, store.spec.examples, store.spec.examples - 1]
    whole = np.concatenate([first[1], second[1]])
    np.testing.assert_array_equal(activations.read(wanted, 1)[0], whole[wanted])
    with pytest.raises(ValueError, match="labels for activations"):
        Activations([store, other], np.zeros(3, np.int32))


def test_a_missing_shard_is_told(store):
    fill(store)
    store.path(1).unlink()
    assert store.missing() == [1]
    with pytest.raises(UserError, match=r"are damaged .*delete that folder"):
        store.open()


def flipped(data):
    """One bit of a record's own bytes is another."""
    at = data.index(np.random.default_rng(0).normal(size=1).astype(np.float32).tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", flipped])
def test_damaged_shards_are_told_and_never_trained_on(store, damage):
    values = fill(store)
    for shard in range(1):
        store.path(shard).write_bytes(damage(store.path(shard).read_bytes()))
    with pytest.raises(UserError, match=r"are damaged .*delete that folder"):
        activations = Activations([store], np.zeros(len(values[0]), np.int32))
        activations.read(list(range(len(values[0]))))


def test_what_a_full_disk_refuses_leaves_no_shard(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("osteojax.data.activations.array_record_module.ArrayRecordWriter", full)
    with pytest.raises(UserError, match="no space is left"):
        store.write(0, np.zeros((EXAMPLES_PER_SHARD, 2, 3), np.float32))
    assert [path.name for path in store.folder.iterdir()] == ["spec.json"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(cached, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(prefix.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match=r"need 0\.00 GiB more in .*train\.cache_dir to a larger disk"):
        feed_of(cached)
    assert not list(cache.rglob("*.array_record"))


def test_a_cache_that_is_a_file_is_told(cached, tmp_path):
    cached.train.cache_dir = str(tmp_path / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"File exists|Not a directory"):
        feed_of(cached)


def test_a_build_that_is_killed_goes_on_where_it_was(prepared, cached, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("osteojax.data.activations.EXAMPLES_PER_SHARD", 4)
    monkeypatch.setattr(prefix, "EXAMPLES_PER_SHARD", 4)
    original, shards = prefix.PrefixCache._compute_shard, []

    def dying(self, part, shard, values):
        if len(shards) == 3:
            raise KeyboardInterrupt
        shards.append(shard)
        original(self, part, shard, values)

    monkeypatch.setattr(prefix.PrefixCache, "_compute_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        feed_of(cached)
    assert len(list(cache.rglob("*.array_record"))) == 3
    monkeypatch.setattr(
        prefix.PrefixCache,
        "_compute_shard",
        lambda self, part, shard, values: (shards.append(shard), original(self, part, shard, values))[1],
    )
    found = feed_of(cached)
    assert len(shards) == 6 + 2  # of 22 and of 7 examples
    np.testing.assert_allclose(everything_of(found.train), computed(cached), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_build_that_is_killed_for_good_goes_on(cached, cache, tmp_path):
    """SIGKILL, at several moments of a build of its own process."""
    cached.data.dir = str(small.write_dataset(tmp_path / "data", {"train": 400, "val": 7, "test": 5}))
    file = small.write_config(tmp_path / "config.py", cached)
    for shards in (1, 3, 5):
        process = subprocess.Popen(**command(file, tmp_path / "run", devices=1))
        while process.poll() is None and len(list(cache.rglob("*.array_record"))) < shards:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert not [path for path in cache.rglob("*.array_record") if path.stat().st_size == 0]
    subprocess.run(**command(file, tmp_path / "run", devices=1), check=True)
    train(without(cached), tmp_path / "images")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "images")


# --- views, dtypes, phases ---------------------------------------------------------------------------------------


def test_augmented_views_are_those_of_their_keys_and_the_epochs_take_them_in_turn(cached, tmp_path, cache):
    cached.augment.update(flip=True, rotate=20.0, gain=0.2)
    cached.train.cache_views = 3
    found = feed_of(cached)
    recipe, dataset = recipe_of(cached), PreparedDataset.open(cached.data.dir)
    params, stats = recipe.network.init()
    assert found.train.views == 3 and found.validation.views == 1 and found.start == "stage4"

    views = [found.train.read(list(range(22)), view)[0] for view in range(3)]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in ((views[0], views[1]), (views[1], views[2])))
    stream = jax.random.fold_in(jax.random.key(cached.seed), prefix.zlib.crc32(b"views of the prefix cache"))
    image, _ = dataset.source("train").read(list(range(22)))
    of_view = jax.random.fold_in(stream, 1)
    keys = jax.vmap(lambda n: jax.random.fold_in(of_view, n))(np.arange(22))
    augmented = augment.apply_each(keys, jnp.asarray(image), recipe.augmentations)
    expected = jax.jit(recipe.network.cut("stage3").features)(params, stats, augmented)
    np.testing.assert_allclose(views[1], expected, rtol=1e-5, atol=1e-5)

    plan = BatchPlan(22, 8)
    batches = list(train_iterator(found.train, plan, seed=0, steps=4 * plan.steps))
    for step, batch in enumerate(batches):
        real = batch["mask"] > 0
        np.testing.assert_array_equal(
            batch["image"][real], views[step // plan.steps % 3][batch["index"][real]]
        )


@pytest.mark.parametrize("dtype, digits", [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_half_precision_takes_half_the_disk_and_rounds(cached, cache, dtype, digits):
    cached.train.cache_dtype = dtype
    found = everything_of(feed_of(cached).train)
    assert {json.loads(path.read_text())["dtype"] for path in cache.rglob("spec.json")} == {dtype}
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float32), computed(cached), rtol=digits, atol=1e-6)


def test_float16_that_overflows_is_told(cached, tmp_path, monkeypatch):
    cached.train.cache_dtype = "float16"
    original = Network.cut

    def loud(self, upto):
        cut = original(self, upto)
        return dataclasses.replace(cut, features=lambda *arguments: cut.features(*arguments) + 1e6)

    monkeypatch.setattr(Network, "cut", loud)
    with pytest.raises(UserError, match=r"are not finite as float16; set train.cache_dtype"):
        feed_of(cached)


@pytest.mark.slow
@pytest.mark.parametrize("hold", ["disk", "device"])
def test_unfreezing_that_reaches_into_the_prefix_leaves_the_cache(cached, tmp_path, hold, caplog):
    caplog.set_level("INFO")
    cached.data.hold = hold
    cached.groups = (
        {"name": "head", "pattern": "head/.*"},
        {"name": "stage4", "pattern": "stage4/.*", "unfreeze_step": 2},
        {"name": "stage3", "pattern": "stage3/.*", "unfreeze_step": 4},
        {"name": "rest", "pattern": ".*", "frozen": True},
    )
    train(without(cached), tmp_path / "images")
    train(cached, tmp_path / "run")
    # On some processors XLA rounds the norm of the gradient otherwise where a part of the network is a program.
    lines = [
        [json.loads(line) for line in metrics_of(tmp_path / name).splitlines()] for name in ("run", "images")
    ]
    for run, images in zip(*lines, strict=True):
        assert run == pytest.approx(images, rel=1e-5)
    assert_close(saved(tmp_path / "run"), saved(tmp_path / "images"), 1e-5)
    assert "from step 2 on, which unfreezes a part of it" in caplog.text


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_from_the_cache_to_the_bit(cached, tmp_path, monkeypatch):
    train(cached, tmp_path / "whole")
    original, calls = loop.to_devices, iter(range(100))

    def failing(batch, sharding):
        if "label" in batch and next(calls) == 4:
            raise KeyboardInterrupt
        return original(batch, sharding)

    monkeypatch.setattr(loop, "to_devices", failing)
    cached.checkpoint.every_steps = 1
    with pytest.raises(KeyboardInterrupt):
        train(cached, tmp_path / "run")
    train(cached, tmp_path / "run")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


# --- devices and hosts -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_hosts_build_a_cache_together(cached, tmp_path, shared):
    """Each computes its part of the shards; where they share no folder, each gets all of them."""
    cached.data.dir = str(small.write_dataset(tmp_path / "data", {"train": 150, "val": 70, "test": 5}))
    cached.optimizer.update(name="sgd", learning_rate=1e-2)
    train(without(on(cached, 1)), tmp_path / "images")
    file = small.write_config(tmp_path / "config.py", on(cached, -1))
    environment = {} if shared else {"OSTEOJAX_TEST_CACHE_OF_ITS_OWN": str(tmp_path)}
    for process in launch(file, tmp_path / "run", 2, 2, environment=environment):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert_close(saved(tmp_path / "run"), saved(tmp_path / "images"), 1e-5)
    folders = (
        [tmp_path / "cache" / "prefix"] if shared else [tmp_path / f"host{i}" / "prefix" for i in (0, 1)]
    )
    for folder in folders:
        assert len(list(folder.rglob("*.array_record"))) == 3 + 2


# --- where the split is held -------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.slow
def test_where_a_split_is_held_changes_no_bit(prepared, tmp_path, augmented):
    config = small.quick_config(prepared)
    if augmented:
        config.augment.update(flip=True, rotate=10.0)
    texts = set()
    for hold in ("disk", "host", "device"):
        config.data.hold = hold
        train(config, tmp_path / hold)
        texts.add(metrics_of(tmp_path / hold))
        assert_same_bits(saved(tmp_path / hold), saved(tmp_path / "disk"))
    assert len(texts) == 1


def test_row_numbers_count_through_the_views():
    rows = feed.Rows(np.arange(5, dtype=np.int32), views=3)
    found, labels = rows.read([4, 0], view=2)
    assert found.tolist() == [14, 10] and labels.tolist() == [4, 0]


def test_mixed_images_have_no_cache(cached, tmp_path):
    cached.mix.mixup = 0.2
    with pytest.raises(UserError, match=r"mix\.\* mixes images, and train\.cache_prefix has none"):
        train(cached, tmp_path / "run")


def test_a_split_that_memory_cannot_hold_is_read_from_disk(quick, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("osteojax.data.memory.SHARE", 1e-12)
    assert not isinstance(feed_of(quick).train, InMemory)
    assert "read from disk, step by step" in caplog.text


@pytest.mark.slow
def test_several_steps_a_call_are_the_same_steps(prepared, tmp_path, monkeypatch):
    """Twelve steps, some of them alone: a validation after each fifth, a line of the log after each fourth."""
    calls = []
    together = loop.together
    monkeypatch.setattr(loop, "together", lambda batches: calls.append(len(batches)) or together(batches))
    config = small.quick_config(prepared)
    config.preset = "stage4"
    config.epochs = 4.0
    config.optimizer.update(name="sgd", learning_rate=1e-3)
    config.data.hold = "device"
    config.log_every = 4
    config.eval.every_steps = 5
    train(config, tmp_path / "one")
    calls.clear()
    config.train.steps_per_call = 64
    train(config, tmp_path / "several")
    assert calls == [4, 1, 2, 1, 2, 2]  # powers of two, as many as lie before the next line or validation
    # XLA fuses the body of a loop otherwise, and rounds otherwise.
    assert_close(saved(tmp_path / "several"), saved(tmp_path / "one"), 1e-4)
    lines = [
        [json.loads(line) for line in metrics_of(tmp_path / name).splitlines()] for name in ("one", "several")
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for one, several in zip(*lines, strict=True):
        assert one.keys() == several.keys()
        np.testing.assert_allclose([several[k] for k in one], list(one.values()), rtol=1e-3, atol=1e-5)


def test_several_steps_a_call_need_the_data_on_the_device(quick, tmp_path):
    quick.train.steps_per_call = 4
    with pytest.raises(UserError, match=r"train\.steps_per_call=4 needs the data on the device"):
        train(quick, tmp_path / "run")


def test_pixels_are_packed_without_loss(prepared):
    split = PreparedDataset.open(prepared).source("train")
    held = memory.hold(split, pixels=True, threads=2)
    assert held.images.dtype == np.uint16
    expected, labels = split.read(list(range(len(split))))
    np.testing.assert_array_equal(unpack(held.images), expected)
    np.testing.assert_array_equal(held.labels(), labels)
    np.testing.assert_array_equal(split.labels(), labels)


def test_pixels_that_are_finer_are_held_as_they_are():
    images = np.random.default_rng(0).random((200, 3, 3, 1), np.float32)
    images[:100] = np.round(images[:100] * 64) / 64  # the first chunks could be packed
    held = memory.hold(InMemory(images, np.arange(200, dtype=np.int32)), pixels=True)
    assert held.images.dtype == np.float32
    assert held.labels().tolist() == list(range(200))
    np.testing.assert_array_equal(held.images, images)
