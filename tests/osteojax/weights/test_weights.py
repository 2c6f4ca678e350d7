"""Weights of every origin arrive exactly, and what does not fit is named."""

import ast
import json
import tracemalloc

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from osteojax import models, weights
from osteojax.errors import UserError
from osteojax.models import densenet, efficientnet, resnet, vgg
from osteojax.weights import layouts
from osteojax.weights.convert import convert
from osteojax.weights.formats.keras_h5 import read_keras_h5
from tests.goldens import seeded
from tests.osteojax.models.test_models_parity import GOLDENS, block_outputs, relative_error
from tests.osteojax.weights import torch_file

CLASSES = 10


def foreign(layout, arch, draw=seeded.tensor):
    """Every tensor of a file in this layout, by its foreign name, with a head of ten classes."""
    return {
        key: draw(key, tuple(CLASSES if n == -1 else n for n in shape))
        for origin in layouts.origins_of(layout, arch).values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }


def expected(layout, arch, tensors):
    """What our arrays must be, from the layout's origins."""
    return {
        path: origin.convert(*(tensors[key] for key in origin.keys))
        for path, origin in layouts.origins_of(layout, arch).items()
    }


def assert_holds(file, layout, arch, tensors):
    wanted = expected(layout, arch, tensors)
    assert file.arrays.keys() == wanted.keys() == layouts.parameter_shapes(arch).keys()
    for path, values in wanted.items():
        np.testing.assert_array_equal(file.arrays[path], values, err_msg=path)
    assert file.provenance["num_classes"] == CLASSES


@pytest.fixture(scope="module")
def resnet18():
    """A ResNet-18's tensors by torchvision's names."""
    return foreign(resnet.TORCHVISION, "resnet18")


def counters(tensors):
    """The int64 counters that PyTorch's batch norm saves beside its statistics."""
    return {
        key.replace("running_var", "num_batches_tracked"): np.array(7, np.int64)
        for key in tensors
        if "running_var" in key
    }


@pytest.mark.parametrize("write", [torch_file.write_zip, torch_file.write_legacy])
def test_torchvision_pth(tmp_path, resnet18, write):
    path = write(tmp_path / "w.pth", torch_file.tensors({**resnet18, **counters(resnet18)}))
    file = weights.load(path, "resnet18")
    assert_holds(file, resnet.TORCHVISION, "resnet18", resnet18)
    assert file.provenance["source"] == "w.pth" and len(file.provenance["sha256"]) == 64


def test_npz_with_the_names_of_data_parallel_training(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **{f"module.{key}": value for key, value in resnet18.items()})
    assert_holds(weights.load(tmp_path / "w.npz", "resnet18"), resnet.TORCHVISION, "resnet18", resnet18)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_huggingface_files(tmp_path, name):
    tensors = foreign(resnet.HUGGINGFACE, "resnet18")
    # names as in the published microsoft/resnet-18, from its documentation, not from our rules
    for published in (
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_var",
        "resnet.encoder.stages.0.layers.1.layer.0.convolution.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_mean",
        "resnet.encoder.stages.3.layers.0.layer.1.normalization.bias",
        "classifier.1.bias",
    ):
        assert published in tensors
    if name.endswith(".bin"):
        torch_file.write_zip(tmp_path / name, torch_file.tensors(tensors))
    else:
        save_file(tensors, tmp_path / name)
    file = weights.load(tmp_path / name, "resnet18")
    assert_holds(file, resnet.HUGGINGFACE, "resnet18", tensors)
    assert file.provenance["layout"] == "huggingface"


@pytest.mark.parametrize(
    "arch",
    [
        "mobilenet_v2",
        "convnext_tiny",
        "vit_small_patch16",
        "efficientnet_b0",
        "mobilenet_v3_large",
        "swin_t",
    ],
)
def test_a_state_dict_with_the_publishers_names_loads(tmp_path, arch):
    """Names and shapes are those of torchvision's or timm's own network, as its golden keeps them."""
    with np.load(GOLDENS / f"{arch}.npz") as arrays:
        published = dict(str(entry).split(" ", 1) for entry in arrays["keys"])
    tensors = {key: seeded.tensor(key, ast.literal_eval(shape)) for key, shape in published.items()}
    buffers = {"features.1.0.attn.relative_position_index": np.zeros(3, np.int64)} if arch == "swin_t" else {}
    path = torch_file.write_zip(
        tmp_path / "w.pth", torch_file.tensors({**tensors, **counters(tensors), **buffers})
    )
    file = weights.load(path, arch)
    layout = models.ARCHITECTURES.get(arch).layouts[0]
    for ours, values in expected(layout, arch, tensors).items():
        np.testing.assert_array_equal(file.arrays[ours], values, err_msg=ours)
    assert file.provenance["num_classes"] == 1000
    assert file.arrays.keys() == layouts.parameter_shapes(arch).keys()


@pytest.mark.parametrize(
    ("arch", "layout", "names"),
    [
        ("resnet18", resnet.TORCHVISION, ["layer2.0.downsample.1.running_mean", "fc.weight"]),
        (
            "efficientnet_lite0",
            efficientnet.TIMM,
            [
                "conv_stem.weight",
                "blocks.0.0.conv_dw.weight",
                "blocks.0.0.bn2.bias",
                "blocks.5.3.conv_pwl.weight",
                "blocks.6.0.bn3.running_var",
                "conv_head.weight",
                "bn2.weight",
                "classifier.bias",
            ],
        ),
        (
            "densenet121",
            densenet.TORCHVISION,
            [
                "features.denseblock4.denselayer16.conv2.weight",
                "features.transition3.norm.weight",
                "features.norm5.bias",
                "classifier.weight",
            ],
        ),
        (
            "densenet121",
            densenet.TORCHVISION_2017,
            [
                "features.denseblock1.denselayer1.norm.1.weight",
                "features.denseblock1.denselayer1.conv.2.weight",
            ],
        ),
        pytest.param(
            "vgg16_bn",
            vgg.TIMM,
            ["features.0.bias", "features.41.running_mean", "pre_logits.fc2.weight", "head.fc.bias"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["resnet18", "efficientnet_lite0", "densenet121", "densenet121-2017", "vgg16_bn"],
)
def test_timm_safetensors(tmp_path, arch, layout, names):
    tensors = foreign(layout, arch)
    assert set(names) <= set(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert_holds(weights.load(tmp_path / "model.safetensors", arch), layout, arch, tensors)


@pytest.mark.parametrize("arch", ["mobilenet_v2", "efficientnet_b0", "convnext_tiny", "swin_t"])
def test_the_layout_of_timm_asks_for_exactly_the_tensors_of_its_network(arch):
    """Names and shapes that timm's own networks have (`tests/goldens/make_publisher_goldens.py`)."""
    with np.load(GOLDENS / "timm_names.npz") as arrays:
        published = list(arrays[arch])
    layout = models.ARCHITECTURES.get(arch).layouts[1]
    asked = [
        f"{key} {tuple(1000 if n == -1 else n for n in shape)}"
        for origin in layouts.origins_of(layout, arch).values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    ]
    assert layout.name == "timm" and sorted(asked) == published


@pytest.mark.parametrize(
    "arch",
    [
        "mobilenet_v2",
        *(
            pytest.param(arch, marks=pytest.mark.slow)
            for arch in ("mobilenet_v3_large_timm", "efficientnet_b0", "convnext_tiny", "swin_t")
        ),
    ],
)
def test_timm_safetensors_of_other_backbones(tmp_path, arch):
    layout = models.ARCHITECTURES.get(arch).layouts[-1]
    tensors = foreign(layout, arch)
    buffers = {"layers.0.blocks.1.attn_mask": np.zeros(3, np.float32)} if arch == "swin_t" else {}
    save_file({**tensors, **counters(tensors), **buffers}, tmp_path / "model.safetensors")
    file = weights.load(tmp_path / "model.safetensors", arch)
    assert_holds(file, layout, arch, tensors)
    assert file.provenance["layout"] == "timm"


def google_vit():
    """The tensors of Google's ViT-S/16 by name, as its files hold them: S_16-i21k-...--imagenet2012-....npz."""
    shapes = {
        "cls": (1, 1, 384),
        "embedding/kernel": (16, 16, 3, 384),
        "embedding/bias": (384,),
        "Transformer/posembed_input/pos_embedding": (1, 197, 384),
        "Transformer/encoder_norm/scale": (384,),
        "Transformer/encoder_norm/bias": (384,),
        "head/kernel": (384, CLASSES),
        "head/bias": (CLASSES,),
    }
    for block in range(12):
        lead = f"Transformer/encoderblock_{block}"
        attention = f"{lead}/MultiHeadDotProductAttention_1"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{lead}/{norm}/scale": (384,), f"{lead}/{norm}/bias": (384,)}
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (384, 6, 64), f"{attention}/{part}/bias": (6, 64)}
        shapes |= {f"{attention}/out/kernel": (6, 64, 384), f"{attention}/out/bias": (384,)}
        for layer, (inputs, outputs) in enumerate([(384, 1536), (1536, 384)]):
            dense = f"{lead}/MlpBlock_3/Dense_{layer}"
            shapes |= {f"{dense}/kernel": (inputs, outputs), f"{dense}/bias": (outputs,)}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_the_npz_of_google(tmp_path):
    tensors = google_vit()
    np.savez(tmp_path / "w.npz", **tensors)
    file = weights.load(tmp_path / "w.npz", "vit_small_patch16")
    assert file.arrays.keys() == layouts.parameter_shapes("vit_small_patch16").keys()
    assert (file.provenance["layout"], file.provenance["num_classes"]) == ("google", CLASSES)
    # The second block of the third stage is the eighth: one product gives query, key and value of each head.
    attention = "Transformer/encoderblock_7/MultiHeadDotProductAttention_1"
    x = np.random.default_rng(1).standard_normal(384, np.float32)
    ours = "stage3/blocks/1/attn"
    qkv = (x @ file.arrays[f"{ours}/qkv/kernel"] + file.arrays[f"{ours}/qkv/bias"]).reshape(3, 6, 64)
    for found, part in zip(qkv, ("query", "key", "value"), strict=True):
        wanted = np.einsum("c,chd->hd", x, tensors[f"{attention}/{part}/kernel"])
        np.testing.assert_allclose(found, wanted + tensors[f"{attention}/{part}/bias"], atol=1e-3)
    mixed = x.reshape(6, 64)
    wanted = np.einsum("hd,hdc->c", mixed, tensors[f"{attention}/out/kernel"])
    np.testing.assert_allclose(x @ file.arrays[f"{ours}/proj/kernel"], wanted, atol=1e-3)
    for path, name in (("norm2/scale", "LayerNorm_2/scale"), ("mlp/fc2/kernel", "MlpBlock_3/Dense_1/kernel")):
        np.testing.assert_array_equal(
            file.arrays[f"stage3/blocks/1/{path}"], tensors[f"Transformer/encoderblock_7/{name}"]
        )
    np.testing.assert_array_equal(file.arrays["stem/conv/kernel"], tensors["embedding/kernel"])


def test_an_npz_of_google_that_does_not_fit_is_one_sentence(tmp_path):
    tensors = google_vit()
    del tensors["cls"]
    tensors["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 577, 384), np.float32)
    np.savez(tmp_path / "w.npz", **tensors)
    with pytest.raises(UserError, match=r"1 missing: cls; 1 mis-shaped: .*pos_embedding is \(1, 577, 384\)"):
        weights.load(tmp_path / "w.npz", "vit_small_patch16")


def test_half_precision_safetensors(tmp_path, resnet18):
    halves = {key: value.astype(jnp.bfloat16) for key, value in resnet18.items()}
    save_file(halves, tmp_path / "model.safetensors")
    file = weights.load(tmp_path / "model.safetensors", "resnet18")
    rounded = {key: value.astype(np.float32) for key, value in halves.items()}
    assert_holds(file, resnet.TORCHVISION, "resnet18", rounded)


def test_our_own_file_returns_what_was_converted_and_its_provenance(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **resnet18)
    out = tmp_path / "sub" / "own.safetensors"
    provenance = convert(tmp_path / "w.npz", "resnet18", out)
    assert provenance["source"] == "w.npz" and provenance["arch"] == "resnet18"
    assert provenance["mean"] == [0.485, 0.456, 0.406]
    plain = tmp_path / "plain"
    plain.touch()
    assert out.stat().st_mode == plain.stat().st_mode, "others may read it as any file written here"
    own = weights.load(out, "resnet18")
    assert own.provenance == provenance
    assert_holds(own, resnet.TORCHVISION, "resnet18", resnet18)
    assert convert(out, "resnet18", tmp_path / "again.safetensors") == provenance
    with pytest.raises(UserError, match=r"'resnet18', not of 'resnet34'"):
        weights.load(out, "resnet34")
    with pytest.raises(UserError, match=r"\.safetensors"):
        convert(out, "resnet18", tmp_path / "own.bin")


@pytest.mark.parametrize("metadata", ["{", "[]", json.dumps({"arch": "resnet18"})])
def test_a_damaged_own_file_is_refused(tmp_path, metadata):
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "own.safetensors", {"osteojax": metadata})
    with pytest.raises(UserError, match=r"provenance|missing"):
        weights.load(tmp_path / "own.safetensors", "resnet18")


def test_one_error_names_every_tensor_that_does_not_fit(tmp_path, resnet18):
    broken = dict(resnet18)
    del broken["layer1.0.conv1.weight"], broken["fc.bias"]
    broken["layer9.weight"] = np.zeros(2, np.float32)
    broken["conv1.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    broken["bn1.bias"] = np.zeros(64, np.int64)
    np.savez(tmp_path / "w.npz", **broken)
    with pytest.raises(UserError) as error:
        weights.load(tmp_path / "w.npz", "resnet18")
    for text in (
        "2 missing",
        "layer1.0.conv1.weight",
        "fc.bias",
        "1 extra: layer9.weight",
        "conv1.weight is (64, 1, 7, 7) float32, not (64, 3, 7, 7)",
        "bn1.bias is (64,) int64",
    ):
        assert text in str(error.value)


def test_values_that_are_not_finite_are_refused(tmp_path, resnet18):
    broken = {**resnet18, "fc.bias": np.full(CLASSES, np.nan, np.float32)}
    np.savez(tmp_path / "w.npz", **broken)
    with pytest.raises(UserError, match="not finite: head/fc/bias"):
        weights.load(tmp_path / "w.npz", "resnet18")


def test_an_npz_of_objects_is_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "trap").touch, ()

    np.savez(tmp_path / "w.npz", weight=np.array([Trap()], object))
    with pytest.raises(UserError, match="objects"):
        weights.load(tmp_path / "w.npz", "resnet18")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.h5", "w.pth"])
def test_files_of_garbage_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(UserError, match=name):
        weights.load(tmp_path / name, "resnet50_v1" if name == "w.h5" else "resnet50")


def test_unknown_files_and_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such weights file"):
        weights.load(tmp_path / "absent.pth", "resnet18")
    with pytest.raises(UserError, match=r"no weights file that is read here: PyTorch \(\.pth"):
        (tmp_path / "w.txt").write_bytes(bytes(range(256)))
        weights.load(tmp_path / "w.txt", "resnet18")


def test_apply_sets_everything_and_resets_the_head_only_where_asked(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **resnet18)
    file = weights.load(tmp_path / "w.npz", "resnet18")

    def values(model):
        return {"/".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model))}

    model = models.create("resnet18", rngs=nnx.Rngs(0))
    fresh = values(model)
    weights.apply(model, file)
    for path, value in values(model).items():
        source = fresh if path.startswith("head/fc") else file.arrays
        np.testing.assert_array_equal(value, source[path], err_msg=path)
    with pytest.raises(UserError, match="10 classes, the model's 3"):
        weights.apply(model, file, head="keep")
    with pytest.raises(UserError, match="'resnet18' do not fit a model of 'resnet34'"):
        weights.apply(nnx.eval_shape(lambda: models.create("resnet34", rngs=nnx.Rngs(0))), file)

    whole = models.create("resnet18", num_classes=CLASSES, rngs=nnx.Rngs(0))
    weights.apply(whole, file, head="keep")
    for path, value in values(whole).items():
        np.testing.assert_array_equal(value, file.arrays[path], err_msg=path)


def write_keras_h5(path, tensors):
    """The structure in which Keras writes a model's weights (compare keras_small.h5, which Keras wrote)."""
    layers = list(dict.fromkeys(key.split("/")[0] for key in tensors))
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = np.array(layers, "S")
        for layer in layers:
            group = root.create_group(layer)
            names = [key for key in tensors if key.split("/")[0] == layer]
            group.attrs["weight_names"] = np.array([f"{name}:0" for name in names], "S")
            for name in names:
                group.create_dataset(f"{name}:0", data=tensors[name])
    return path


def test_a_file_that_keras_wrote_is_read():
    found = read_keras_h5(GOLDENS / "keras_small.h5")
    assert set(found) == {
        "first/kernel",
        "first/bias",
        *(f"norm/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")),
    }
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.read(), seeded.keras_tensor(name, tensor.shape))


def test_keras_resnet50_equals_keras_block_by_block(tmp_path):
    """Goldens of keras.applications.ResNet50 itself: v1 strides, biases, BGR and caffe scaling, 1.001e-5."""
    arch = "resnet50_v1"
    origins = layouts.origins_of(resnet.KERAS, arch)
    with np.load(GOLDENS / "keras_resnet50.npz", allow_pickle=False) as arrays:
        golden = dict(arrays)
    tensors = {
        key: seeded.keras_tensor(key, tuple(1000 if n == -1 else n for n in shape))
        for origin in origins.values()
        for key, shape in zip(origin.keys, origin.shapes, strict=True)
    }
    assert sorted(f"{key} {value.shape}" for key, value in tensors.items()) == list(golden["keys"])
    file = weights.load(write_keras_h5(tmp_path / "w.h5", tensors), arch)
    abstract = nnx.eval_shape(
        lambda: models.create(arch, num_classes=1000, in_channels=3, conv_impl="native", rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(abstract)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(file.arrays["/".join(map(str, path))]))
    model = nnx.merge(graph, state)
    model.eval()
    outputs = nnx.jit(block_outputs)(model, seeded.images())
    errors = {
        block: relative_error(seeded.summary(outputs[block]), golden[f"eval:{block}"]) for block in outputs
    }
    assert len(errors) == 18 and max(errors.values()) < 1e-4, errors


def test_a_keras_file_is_refused_for_other_strides_and_without_layer_names(tmp_path):
    path = write_keras_h5(tmp_path / "w.h5", {"conv1_conv/kernel": np.zeros((7, 7, 3, 64), np.float32)})
    with pytest.raises(UserError, match="resnet50_v1"):
        weights.load(path, "resnet50")
    with pytest.raises(UserError, match=r"missing: .*conv1_bn/gamma"):
        weights.load(path, "resnet50_v1")
    with h5py.File(tmp_path / "numbered.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=np.zeros(1))
    with pytest.raises(UserError, match="numbers its layers"):
        weights.load(tmp_path / "numbered.h5", "resnet50_v1")


def test_arrays_that_do_not_fit_are_never_unfolded(tmp_path):
    """A compressed archive of zeros: 40 MB that take 40 KB in the file."""
    np.savez_compressed(tmp_path / "w.npz", **{"conv1.weight": np.zeros(10_000_000, np.float32)})
    assert (tmp_path / "w.npz").stat().st_size < 2**20
    layouts.parameter_shapes("resnet18")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"conv1\.weight is \(10000000,\)"):
        weights.load(tmp_path / "w.npz", "resnet18")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("kind", ["soft", "external", "storage", "compressed"])
def test_a_keras_file_holds_plain_arrays_of_its_own(tmp_path, kind):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64 * 4))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("beta:0", data=np.zeros(64, np.float32))
    path = write_keras_h5(tmp_path / "w.h5", {"conv1_bn/gamma": np.zeros(64, np.float32)})
    with h5py.File(path, "a") as file:
        group = file["model_weights/conv1_bn"]
        group.attrs["weight_names"] = np.array(["conv1_bn/beta:0"], "S")
        inner = group["conv1_bn"]
        if kind == "soft":
            inner["beta:0"] = h5py.SoftLink("/model_weights/conv1_bn/conv1_bn/gamma:0")
        elif kind == "external":
            inner["beta:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "beta:0")
        elif kind == "compressed":
            inner.create_dataset("beta:0", (64,), "f4", compression="gzip")
        else:
            inner.create_dataset("beta:0", (64,), "f4", external=[(str(secret), 0, 256)])
    with pytest.raises(UserError, match=r"must lie in the file|another file|compressed"):
        weights.load(path, "resnet50_v1")


def test_safetensors_of_the_project_hold_nothing_but_our_names(tmp_path, resnet18):
    np.savez(tmp_path / "w.npz", **resnet18)
    convert(tmp_path / "w.npz", "resnet18", tmp_path / "own.safetensors")
    assert load_file(tmp_path / "own.safetensors").keys() == layouts.parameter_shapes("resnet18").keys()
