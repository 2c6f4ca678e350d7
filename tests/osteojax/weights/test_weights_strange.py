"""Weights files as trainers leave them, and files that are none: read where that is right, told what they are else."""

import collections
import importlib
import io
import json
import pickle
import random
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import small
from flax import nnx
from safetensors.numpy import save

from osteojax import models, weights
from osteojax.errors import UserError
from osteojax.models import densenet, resnet, vgg
from osteojax.weights import layouts
from osteojax.weights.convert import convert
from osteojax.weights.formats.registry import FORMATS
from osteojax.weights.formats.registry import read as read_file
from tests.osteojax.weights import torch_file
from tests.osteojax.weights.test_weights import assert_holds, expected, foreign

loading = importlib.import_module("osteojax.weights.load")  # the package calls its function by that name


@pytest.fixture(scope="module")
def resnet18():
    """A ResNet-18's tensors by torchvision's names."""
    return foreign(resnet.TORCHVISION, "resnet18")


def named(tensors, prefix):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "module.model.", "net.encoder.", "student/"]
)
def test_a_prefix_of_the_trainer_is_taken_off(tmp_path, resnet18, prefix):
    np.savez(tmp_path / "w.npz", **named(resnet18, prefix))
    assert_holds(weights.load(tmp_path / "w.npz", "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)


def test_what_lies_beside_the_prefix_is_not_read_and_what_lies_behind_it_must_fit(tmp_path, resnet18, caplog):
    caplog.set_level("INFO")
    beside = {"criterion.weight": np.ones(3, np.float32), "projector.0.weight": np.ones((2, 2), np.float32)}
    np.savez(tmp_path / "w.npz", **named(resnet18, "model."), **beside)
    assert_holds(weights.load(tmp_path / "w.npz", "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)
    assert "criterion.weight, projector.0.weight, which are not read" in caplog.text
    np.savez(tmp_path / "w.npz", **named({**resnet18, "layer9.weight": np.ones(2, np.float32)}, "model."))
    with pytest.raises(UserError, match=r"1 extra: layer9\.weight"):
        weights.load(tmp_path / "w.npz", "resnet18")


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_without_a_head_is_read_and_the_head_stays_new(tmp_path, resnet18, prefix):
    body = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    np.savez(tmp_path / "w.npz", **named(body, prefix))
    file = weights.load(tmp_path / "w.npz", "resnet18")
    assert file.provenance["num_classes"] is None and "head/fc/kernel" not in file.arrays
    model = models.create("resnet18", rngs=nnx.Rngs(0))
    before = np.asarray(model.head.fc.kernel[...])
    weights.apply(model, file)
    np.testing.assert_array_equal(model.head.fc.kernel[...], before)
    wanted = expected(resnet.TORCHVISION, "resnet18", resnet18)
    np.testing.assert_array_equal(model.stem.conv.kernel[...], wanted["stem/conv/kernel"])
    with pytest.raises(UserError, match="no head"):
        weights.apply(model, file, head="keep")
    convert(tmp_path / "w.npz", "resnet18", tmp_path / "own.safetensors")
    again = weights.load(tmp_path / "own.safetensors", "resnet18")
    assert again.arrays.keys() == file.arrays.keys() and again.provenance == file.provenance


@pytest.mark.parametrize("name", small.SHIPPED)
def test_every_architecture_has_a_first_convolution_to_find_a_prefix_by(name):
    for layout in models.ARCHITECTURES.get(name).layouts:
        origins = layouts.origins_of(layout, name)
        first = loading._first(origins)
        (key,), (shape,) = first.keys, first.shapes
        assert 3 in shape and key.endswith("kernel" if layout.keras or layout.flax else "weight")
        assert loading._prefixes({f"model.{key}": None}, key) == [
            "",
            "model.",
        ]


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize(
    "arch, layout, lead",
    [("resnet18", resnet.HUGGINGFACE, "resnet."), ("densenet121", densenet.TORCHVISION, "features.")],
)
def test_a_backbone_saved_without_the_name_that_it_has_in_the_whole_model(
    tmp_path, arch, layout, lead, prefix
):
    tensors = foreign(layout, arch)
    bare = {prefix + key.removeprefix(lead): value for key, value in tensors.items() if key.startswith(lead)}
    np.savez(tmp_path / "w.npz", **bare)
    file = weights.load(tmp_path / "w.npz", arch)
    wanted = {k: v for k, v in expected(layout, arch, tensors).items() if not k.startswith("head/")}
    assert file.arrays.keys() == wanted.keys()
    for path, values in wanted.items():
        np.testing.assert_array_equal(file.arrays[path], values, err_msg=path)


def test_half_a_head_is_an_error(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **{key: value for key, value in resnet18.items() if key != "fc.bias"})
    with pytest.raises(UserError, match=r"1 missing: fc\.bias"):
        weights.load(tmp_path / "w.npz", "resnet18")


@pytest.mark.slow
def test_a_head_of_several_layers_is_left_out_whole(tmp_path):
    tensors = foreign(vgg.TORCHVISION, "vgg16_bn")
    np.savez(tmp_path / "w.npz", **{k: v for k, v in tensors.items() if not k.startswith("classifier.")})
    assert not any(path.startswith("head/") for path in weights.load(tmp_path / "w.npz", "vgg16_bn").arrays)


def test_a_stem_of_one_channel_is_told(tmp_path, resnet18):
    grey = {**resnet18, "conv1.weight": resnet18["conv1.weight"].sum(1, keepdims=True)}
    np.savez(tmp_path / "w.npz", **grey)
    with pytest.raises(UserError, match=r"conv1\.weight has one input channel.*grey images.*third"):
        weights.load(tmp_path / "w.npz", "resnet18")


def test_another_architecture_is_told(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **{"blocks.0.attn.qkv.weight": np.ones((3, 3), np.float32)})
    with pytest.raises(UserError, match=r"no tensor of resnet18; it has blocks\.0\.attn\.qkv\.weight"):
        weights.load(tmp_path / "w.npz", "resnet18")


@pytest.mark.parametrize("write", [torch_file.write_zip, torch_file.write_legacy])
def test_a_checkpoint_of_lightning_is_read_past_what_lies_beside_its_state_dict(tmp_path, resnet18, write):
    state = torch_file.tensors(named(resnet18, "model."))
    saved = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val'}": {"best": None, "scores": collections.Counter(a=1)}
        },
        "hyper_parameters": collections.defaultdict(list, lr=[1e-3]),
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "loops": collections.OrderedDict(fit=1),
        "state_dict": state,
    }
    path = write(tmp_path / "last.ckpt", saved)
    assert_holds(weights.load(path, "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)


@pytest.mark.parametrize(
    "program, message",
    [
        (b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00xcbuiltins\neval\n)Rss.", "builtins.eval"),
        (b"\x80\x02}X\x01\x00\x00\x00acposix\nsystem\nX\x02\x00\x00\x00ls\x85Rs.", "posix.system"),
        (b"\x80\x02}X\x01\x00\x00\x00actorch.hub\neval\n)Rs.", "torch.hub.eval"),
        (b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b.", "whole model"),
        (b"\x80\x02}X\x01\x00\x00\x00xcnumpy.core.multiarray\n_reconstruct\n)Rs.", "no tensors: x"),
    ],
)
def test_objects_are_never_made_and_never_pass_for_tensors(tmp_path, program, message):
    path = torch_file.write_zip(tmp_path / "x.ckpt", None, program=program)
    with pytest.raises(UserError, match=message):
        weights.load(path, "resnet18")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n <html>", "web page"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b'{"weight_map": {}}', "JSON"),
        (b"", "is empty"),
        (b"hello", "is text"),
        (bytes(range(256)), "no weights file that is read here"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.npz", "w.h5", "w.ckpt", "w.safetensors"])
def test_what_is_taken_for_weights_by_mistake_is_told(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        weights.load(tmp_path / name, "resnet18")


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **resnet18)
    (tmp_path / "w.npz").rename(tmp_path / "w.pth")
    assert_holds(weights.load(tmp_path / "w.pth", "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)
    torch_file.write_zip(tmp_path / "w.weights", torch_file.tensors(resnet18))
    assert_holds(weights.load(tmp_path / "w.weights", "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)


def test_two_networks_that_fit_are_not_chosen_between(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **named(resnet18, "encoder_q."), **named(resnet18, "encoder_k."))
    with pytest.raises(UserError, match=r"2 networks that fit, encoder_k\., encoder_q\."):
        weights.load(tmp_path / "w.npz", "resnet18")


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        claimed = 100_000_000
        archive.writestr("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", claimed) + b" " * claimed)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="claims a header of more than"):
            weights.load(tmp_path / "w.npz", "resnet18")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_link_at_the_root_of_an_h5_is_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other.create_group("g").attrs["layer_names"] = [b"secret_layer"]
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "g")
    with pytest.raises(UserError, match="is a link") as refusal:
        weights.load(tmp_path / "w.h5", "resnet50_v1")
    assert "secret_layer" not in str(refusal.value)


@pytest.mark.parametrize("keys", ["nested", "doubled"])
def test_storage_keys_that_are_no_text_are_refused_before_they_are_hashed(tmp_path, keys):
    whole = torch_file.write_legacy(tmp_path / "x.pth", torch_file.tensors(SMALL)).read_bytes()
    if keys == "nested":
        hostile = b"\x80\x02](" + b"N" + b"\x85" * 100_000 + b"e."
    else:  # each tuple holds the one before it twice
        hostile = (
            b"\x80\x02](N"
            + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(40))
            + b"e."
        )
    genuine = pickle.dumps(["0", "1"], 2)
    assert whole.count(genuine) == 1
    (tmp_path / "w.pth").write_bytes(whole.replace(genuine, hostile))
    with pytest.raises(UserError, match="tuple where a state dict has a str"):
        weights.load(tmp_path / "w.pth", "resnet18")


# --- fuzzing ---------------------------------------------------------------------------------------------------------

SMALL = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(2, np.float32)}


def pth(tmp_path):
    return torch_file.write_zip(tmp_path / "x", torch_file.tensors(SMALL)).read_bytes()


def legacy(tmp_path):
    return torch_file.write_legacy(tmp_path / "x", torch_file.tensors(SMALL)).read_bytes()


def npz(tmp_path):
    np.savez(buffer := io.BytesIO(), **SMALL)
    return buffer.getvalue()


def compressed_npz(tmp_path):
    np.savez_compressed(buffer := io.BytesIO(), **SMALL)
    return buffer.getvalue()


def safetensors(tmp_path):
    return save(SMALL, {"osteojax": json.dumps({"arch": "resnet18"})})


def keras(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        group.create_dataset("conv/kernel:0", data=SMALL["a.weight"])
    return (tmp_path / "x.h5").read_bytes()


def mutated(data, draw):
    """The file with a few bytes changed, cut, repeated or exchanged for extreme ones."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        kind, at = draw.randrange(5), draw.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.choice((0, 255, 128, 46, 82, 40, 80))
        elif kind == 2:
            del data[at : at + draw.randint(1, 40)]
        elif kind == 3:
            data[at:at] = data[max(0, at - 20) : at]
        else:
            data[at : at + 8] = struct.pack("<Q", draw.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("write", [pth, legacy, npz, compressed_npz, safetensors, keras])
def test_fuzzed_files_are_read_or_refused_in_a_sentence(tmp_path, write):
    whole, draw = write(tmp_path), random.Random(0)
    read = refused = 0
    path = tmp_path / "fuzzed"
    for _ in range(300):
        path.write_bytes(mutated(whole, draw))
        try:
            _, tensors, _ = read_file(path)
            for name in tensors:
                assert tensors[name].read().nbytes < 10_000
            read += 1
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error).strip()
            refused += 1
    assert refused > 50 and read + refused == 300


def test_every_format_recognises_its_own_file_alone(tmp_path):
    files = {"pytorch": pth, "npz": npz, "safetensors": safetensors, "keras": keras}
    assert set(files) == set(FORMATS)
    for name, write in files.items():
        path = tmp_path / "whole"
        path.write_bytes(write(tmp_path))
        head = path.read_bytes()[:512]
        assert [other for other in FORMATS if FORMATS.get(other).recognises(head, path)] == [name]


def test_an_array_that_claims_more_than_it_holds_allocates_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**10)}
        )
        archive.writestr("conv1.weight.npy", header.getvalue())
    with pytest.raises(UserError, match=r"does not hold resnet18.*conv1\.weight is \(1099511627776, 1024\)"):
        weights.load(tmp_path / "w.npz", "resnet18")
