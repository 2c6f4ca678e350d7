"""What an exported folder says is believed only where it is sound: one sentence otherwise."""

import json
import shutil

import numpy as np
import pytest
import small

from osteojax.errors import UserError
from osteojax.export.export import export_run
from osteojax.export.read import MAX_DESCRIPTION_BYTES, open_exported
from osteojax.files import sha256_of
from osteojax.train.loop import train


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    train(small.quick_config(prepared), folder / "run")
    export_run(folder / "run", folder / "out", names=("stablehlo", "safetensors"))
    return folder / "out"


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder, **fields):
    said = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**said, **fields}))


def files_of(folder):
    return json.loads((folder / "model.json").read_text())["files"]


def test_further_fields_pass(copy):
    change(copy, calibration={"temperature": 1.3})
    assert open_exported(copy).description["calibration"] == {"temperature": 1.3}


@pytest.mark.parametrize("name", ["model.stablehlo", "model.safetensors"])
def test_one_flipped_bit_is_told(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is damaged: its SHA-256"):
        open_exported(copy)


def test_a_file_that_is_gone_is_told(copy):
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json is missing"):
        open_exported(copy)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": "osteojax-export"', b"[" * 100_000, b"{}"],
)
def test_a_description_that_is_none(copy, text):
    (copy / "model.json").write_bytes(text)
    with pytest.raises(UserError, match=r"model.json is damaged, or describes no export"):
        open_exported(copy)


def test_a_description_without_end_is_not_read(copy):
    (copy / "model.json").write_bytes(b" " * MAX_DESCRIPTION_BYTES + (copy / "model.json").read_bytes())
    with pytest.raises(UserError, match="damaged"):
        open_exported(copy)


def test_a_later_version_is_named(copy):
    change(copy, version=2)
    with pytest.raises(UserError, match="has version 2, this release reads 1"):
        open_exported(copy)


@pytest.mark.parametrize(
    "field, value",
    [
        ("class_names", []),
        ("class_names", ["a"]),
        ("class_names", ["a", "a", "b"]),
        ("class_names", ["a", 2, "b"]),
        ("class_names", "abc"),
        ("image_shape", [32, 32]),
        ("image_shape", [32, -32, 1]),
        ("image_shape", [32, 32.5, 1]),
        ("image_shape", [True, 32, 1]),
        ("preprocessing", "none"),
        ("checkpoint_step", "6"),
        ("files", []),
        ("files", {"model.stablehlo": "1"}),
        ("files", {"model.stablehlo": None}),
    ],
)
def test_a_malformed_field_is_named(copy, field, value):
    change(copy, **{field: value})
    with pytest.raises(UserError, match=f"its '{field}' is missing or malformed"):
        open_exported(copy)


@pytest.mark.parametrize("value", [0.0, -1.0, "2", 10**400, [1.0]])
def test_a_temperature_that_cannot_divide_is_named(copy, value):
    change(copy, temperature=value)
    with pytest.raises(UserError, match="its 'temperature' is malformed"):
        open_exported(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "", "a\\b", "./model.stablehlo"])
def test_no_name_leads_out_of_the_folder(copy, name):
    change(copy, files={**files_of(copy), name: "0" * 64})
    with pytest.raises(UserError, match="does not stay inside its folder"):
        open_exported(copy)


def test_no_link_leads_out_of_the_folder(copy, tmp_path):
    (copy / "model.stablehlo").rename(tmp_path / "elsewhere")
    (copy / "model.stablehlo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of the folder"):
        open_exported(copy)


def test_a_program_that_is_none(copy):

    (copy / "model.stablehlo").write_bytes(b"not a program" * 100)
    change(copy, files={**files_of(copy), "model.stablehlo": sha256_of(copy / "model.stablehlo")})
    with pytest.raises(UserError, match="cannot be read by this release of JAX"):
        open_exported(copy)


@pytest.mark.parametrize("fields", [{"class_names": ["a", "b"]}, {"image_shape": [64, 64, 1]}])
def test_a_program_of_another_network(copy, fields):
    change(copy, **fields)
    with pytest.raises(UserError, match=r"another network than model\.json describes"):
        open_exported(copy)


def test_no_folder_and_no_export(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no exported model in"):
            open_exported(folder)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 32, 31, 1), np.float32),
        np.zeros((32, 32, 1), np.float32),
        np.zeros((0, 32, 32, 1), np.float32),
        np.zeros((1, 32, 32, 1), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(whole, image):
    with pytest.raises(ValueError, match="images are"):
        open_exported(whole).logits(image)
