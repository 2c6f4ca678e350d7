"""Shards: what goes in comes out of plain TFDS, in order, compactly, without TensorFlow."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from scipy import ndimage

from data_prep import shards
from data_prep.preprocess import PreprocessSpec, preprocess
from data_prep.shards import Example, even_shards, write_shards

SIZE = 16


def image_of(example: Example) -> np.ndarray:
    pixels = np.random.default_rng(int(example.id)).integers(0, 4097, (SIZE, SIZE, 1))
    return (pixels / 4096).astype(np.float32)


def examples(start, stop, **metadata):
    return [Example(str(i), f"f{i}.png", "ab"[i % 2], f"p{i}", f"p{i}", metadata) for i in range(start, stop)]


def write(out, splits, description=None):
    write_shards(
        out, splits, image_of, image_size=SIZE, class_names=["a", "b"], description=description or {}
    )
    return tfds.builder_from_directory(str(out))


def test_round_trip_in_order_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "EXAMPLES_PER_SHARD", 4)
    splits = {"train": examples(0, 10), "test": examples(10, 13)}
    builder = write(tmp_path / "out", splits, {"preprocessing": {"sigma": None}})
    assert builder.info.splits["train"].shard_lengths == [3, 4, 3]
    assert builder.info.splits["test"].shard_lengths == [3]
    assert len(list((tmp_path / "out").glob("*train*.array_record-*"))) == 3
    assert builder.info.metadata == {"preprocessing": {"sigma": None}}
    for name, expected in splits.items():
        found = list(builder.as_data_source(name))
        assert [e["id"].decode() for e in found] == [e.id for e in expected]
        for one, example in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one["image"], image_of(example))
            assert one["image"].dtype == np.float32
            assert "ab"[one["label"]] == example.label
            assert one["file"].decode() == example.file
            assert one["patient_id"].decode() == example.patient_id
            assert one["group"].decode() == example.group


def test_metadata_columns_become_numbers_or_text(tmp_path):
    first, second, third = examples(0, 3)
    rows = [
        Example(
            **{**vars(first), "metadata": {"age": "61.5", "sex": "female", "T score": "-2.5", "label": "x"}}
        ),
        Example(**{**vars(second), "metadata": {"sex": "7", "T score": "nan", "big": "1e39"}}),
        third,
    ]
    found = list(write(tmp_path / "out", {"train": rows}).as_data_source("train"))
    assert [e["sex"] for e in found] == [b"female", b"7", b""]
    np.testing.assert_array_equal([e["age"] for e in found], np.float32([61.5, np.nan, np.nan]))
    assert [e["t_score"] for e in found] == [b"-2.5", b"nan", b""]  # "nan" is no finite number: text
    assert [e["big"] for e in found] == [b"", b"1e39", b""]  # no number of single precision
    assert [e["label_"] for e in found] == [b"x", b"", b""]
    assert [e["label"] for e in found] == [0, 1, 0]


def test_features_say_what_they_are(tmp_path):
    rows = [dataclasses.replace(e, metadata={"T score": "-2.5", "sex": "F"}) for e in examples(0, 2)]
    features = write(tmp_path / "out", {"train": rows}).info.features  # as features.json has them
    docs = {name: feature.doc.desc for name, feature in features.items()}
    assert {"image", "label", "id", "file", "patient_id", "group", "t_score", "sex"} == set(docs)
    assert all(docs.values()) and len(set(docs.values())) == len(docs)
    assert docs["t_score"].startswith("'T score' of the source's table") and "NaN" in docs["t_score"]
    assert docs["sex"].startswith("'sex' of the source's table") and "empty" in docs["sex"]
    assert features["image"].doc.value_range.startswith("[0, 1]")


def test_a_data_set_without_documentation_opens_as_ever(tmp_path):
    rows = {"train": [dataclasses.replace(e, metadata={"age": "61"}) for e in examples(0, 3)]}
    documented = list(write(tmp_path / "out", rows).as_data_source("train"))
    file = tmp_path / "out" / "features.json"

    def bare(node):
        if isinstance(node, dict):
            return {k: bare(v) for k, v in node.items() if k not in ("description", "valueRange")}
        return node

    plain = bare(json.loads(file.read_text()))
    assert plain != json.loads(file.read_text())
    file.write_text(json.dumps(plain))
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert not any(feature.doc.desc for feature in builder.info.features.values())
    for one, other in zip(builder.as_data_source("train"), documented, strict=True):
        np.testing.assert_equal(one, other)


def test_opens_where_neither_tensorflow_nor_this_project_is(tmp_path):
    write(tmp_path / "out", {"train": examples(0, 2)})
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.builder_from_directory({str(tmp_path / 'out')!r}).as_data_source('train')\n"
        "print(len(source), source[1]['image'].shape, {'tensorflow', 'data_prep'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == f"2 ({SIZE}, {SIZE}, 1) set()"


def test_stored_compactly(tmp_path):
    noise = np.random.default_rng(0).normal(size=(600, 500))
    pixels = 128 + 2000 * ndimage.gaussian_filter(noise, 4) + noise
    image = preprocess(pixels.clip(0, 255), PreprocessSpec())
    out = tmp_path / "out"
    many = [Example(str(i), f"{i}", "a", "p", "g") for i in range(20)]
    write_shards(out, {"train": many}, lambda _: image, image_size=224, class_names=["a"], description={})
    stored = sum(f.stat().st_size for f in out.glob("*.array_record-*")) / len(many)
    # 12 bits a pixel of this noise cannot be compressed to less than 0.38 of float32's 32.
    assert stored < 0.52 * image.nbytes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_never_reach_a_shard(tmp_path, bad):
    def load(example):
        return np.where(
            np.arange(SIZE * SIZE).reshape(SIZE, SIZE, 1) == 9, np.float32(bad), image_of(example)
        )

    with pytest.raises(ValueError, match=r"f0\.png: prepared pixels are not finite"):
        write_shards(
            tmp_path / "out",
            {"train": examples(0, 2)},
            load,
            image_size=SIZE,
            class_names=["a", "b"],
            description={},
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("count", "lengths"), [(1, [1]), (256, [256]), (257, [128, 129]), (1000, [250] * 4)])
def test_shards_are_even(count, lengths):
    assert [len(shard) for shard in even_shards(range(count))] == lengths
