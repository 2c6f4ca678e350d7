"""A prepared dataset that is not whole is told in one sentence, wherever it is noticed."""

import json
import shutil

import numpy as np
import pytest
import small

from osteojax.cli.main import run
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.train.loop import train


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


def shard(directory, split="train"):
    return next(directory.glob(f"*-{split}.array_record-*"))


def truncated(directory):
    path = shard(directory)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(directory):
    shard(directory).write_bytes(b"")


def absent(directory):
    shard(directory).unlink()


def overwritten(directory):
    path = shard(directory)
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def bits(directory):
    path = shard(directory)
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, 3 * len(data) // 4, 7):
        data[place] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, emptied, absent, overwritten, bits])
def test_a_damaged_shard_stops_training_with_its_split(copy, tmp_path, damage):
    damage(copy)
    config = small.quick_config(copy)
    with pytest.raises(UserError, match=rf"{copy}: the shards of split 'train' .*prepare the dataset again"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    "file, text",
    [
        ("dataset_info.json", ""),
        ("dataset_info.json", "{"),
        ("dataset_info.json", "[1, 2]"),
        ("dataset_info.json", "{}"),
        ("features.json", "{"),
        ("features.json", None),
        ("metadata.json", "{"),
        ("metadata.json", "[]"),
        ("metadata.json", '{"preprocessing": {}}'),
        ("metadata.json", None),
    ],
)
def test_damaged_metadata_is_one_sentence(copy, file, text):
    (copy / file).unlink()
    if text is not None:
        (copy / file).write_text(text)
    with pytest.raises(UserError, match=rf"{copy}"):
        PreparedDataset.open(copy)


def test_a_damaged_test_split_stops_evaluation_and_leaves_no_result(copy, tmp_path, capsys):
    config = small.quick_config(copy)
    config.epochs = 1.0
    train(config, tmp_path / "run")
    path = shard(copy, "test")
    path.write_bytes(path.read_bytes()[:-4000])
    assert run(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the shards of split 'test'" in last
    assert not (tmp_path / "run" / "eval").exists()


def test_a_split_reads_like_a_sequence(prepared):
    source = PreparedDataset.open(prepared).source("val")
    assert len(source) == 7 == len(list(source))
    assert source[3]["id"] == source.__getitems__([5, 3])[1]["id"]
    assert source.__getitems__([]) == []


def test_no_dataset_at_all_names_the_flag(tmp_path):
    config = small.quick_config("")
    with pytest.raises(UserError, match=r"--config\.data\.dir"):
        train(config, tmp_path)
    assert json.dumps(config.data.dir) == '""'
