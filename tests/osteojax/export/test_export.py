"""Exported files answer as the run does, appear whole or not at all, and need no osteojax."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import types

import jax
import jax.export
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import small

from osteojax import config as configs
from osteojax import storage
from osteojax.cli.main import run
from osteojax.errors import UserError
from osteojax.export import export as exporting
from osteojax.export.describe import describe
from osteojax.export.export import export_run
from osteojax.export.formats.onnx_file import write_onnx
from osteojax.export.formats.registry import FORMATS
from osteojax.export.formats.stablehlo import write_stablehlo
from osteojax.export.network import arrays, closed_forward, nested
from osteojax.export.read import open_exported
from osteojax.models.build import ModelSection, build
from osteojax.models.layers.platform import portable_formulations
from osteojax.models.layers.pool import max_pool
from osteojax.models.network import Network
from osteojax.run.open import open_run
from osteojax.train.loop import train

# One program against another: the sums are the same, their order is the compiler's.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def workdir(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("exported")
    train(small.quick_config(prepared), workdir)
    return workdir


@pytest.fixture(scope="module")
def folder(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    assert run(["export", f"--workdir={workdir}", f"--out={out}"]) == 0
    return out


def without_osteojax(code, cwd):
    """Runs Python where osteojax cannot be imported; returns what it printed."""
    blocked = "import sys; sys.modules['osteojax'] = None\n"
    found = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_same_images_give_the_runs_own_logits(workdir, folder):
    run_ = open_run(workdir)
    source = run_.dataset().source("test")
    images = np.stack([example["image"] for example in source])
    exported = open_exported(folder)
    logits = exported.logits(images)
    assert logits.dtype == np.float32 and logits.shape == (11, 3)
    np.testing.assert_allclose(logits, run_.logits(source), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(exported.logits(images[:1]), logits[:1], rtol=TOLERANCE, atol=TOLERANCE)
    assert np.ptp(logits, axis=0).max() > 0.01  # they tell images apart


def test_on_one_platform_the_program_is_the_same_to_the_bit(workdir, folder):
    images = np.random.default_rng(0).random((4, small.SIZE, small.SIZE, 1), np.float32)
    expected = jax.jit(closed_forward(open_run(workdir)))(images)
    np.testing.assert_array_equal(open_exported(folder).logits(images), expected)


def test_the_description_says_where_the_model_comes_from(workdir, folder):
    run_ = open_run(workdir)
    said = json.loads((folder / "model.json").read_text())
    assert said["class_names"] == list(small.CLASSES) and said["image_shape"] == [32, 32, 1]
    assert said["preprocessing"] == run_.record["preprocessing"] and said["checkpoint_step"] == run_.step
    assert said["config_hash"] == run_.record["config_hash"]
    assert said["dataset_fingerprint"] == "generated-0" and said["architecture"] == "tiny"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(said["files"]) == files - {"model.json"}
    assert {"model.stablehlo", "model.safetensors", "config.json", "orbax/README.md"} < files
    exported = open_exported(folder)
    assert exported.class_names == small.CLASSES and exported.preprocessing == said["preprocessing"]


def test_a_t_score_gives_no_logit_and_is_said_to_be_left_out(workdir, tmp_path):
    run_ = open_run(workdir)
    assert describe(run_, tmp_path, None)["left_out"] == []
    network = Network(build(ModelSection("tiny", head="t_score"), "tiny", 3, seed=0))
    params, stats = network.init()
    run_.config.model.head = "t_score"
    scoring = dataclasses.replace(run_, network=network, params=params, batch_stats=stats)
    image = np.zeros((2, 32, 32, 1), np.float32)
    assert jax.eval_shape(closed_forward(scoring), image).shape == (2, 3)
    assert describe(scoring, tmp_path, None)["left_out"] == ["t_score"]


def test_the_lines_of_the_description_load_the_program_without_osteojax(folder):
    lines = "\n".join(json.loads((folder / "model.json").read_text())["load"])
    printed = without_osteojax(
        f"{lines}\nprint(program.platforms, program.in_avals, logits.tolist())", folder
    )
    assert "('cpu', 'cuda', 'tpu')" in printed and "float32[b,32,32,1]" in printed
    expected = open_exported(folder).logits(np.zeros((1, 32, 32, 1), np.float32))[0].tolist()
    found = json.loads(printed[printed.index("[[") :])[0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.slow
def test_another_step_is_exported_where_it_is_asked_for(workdir, tmp_path):
    steps = [export_run(workdir, tmp_path / str(s), step=s)["checkpoint_step"] for s in (3, "last")]
    assert steps == [3, 6]
    image = np.full((1, 32, 32, 1), 0.5, np.float32)
    first, last = (open_exported(tmp_path / name).logits(image) for name in ("3", "last"))
    assert np.abs(first - last).max() > 1e-4


def test_safetensors_reads_back_equal(workdir, folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    expected = arrays(open_run(workdir))
    assert len(tensors) == sum(map(len, expected.values()))
    for kind, tree in expected.items():
        for path, array in tree.items():
            np.testing.assert_array_equal(tensors[f"{kind}.{path.replace('/', '.')}"], array)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "healthy", "1": "osteopenia", "2": "osteoporosis"}
    with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["osteojax"]) == config


def test_the_readme_of_the_orbax_folder_reads_it_without_osteojax(workdir, folder, tmp_path):
    readme = (folder / "orbax" / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    save = f"""
import jax, numpy
leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
arrays = {{"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}}
numpy.savez({str(tmp_path / "found.npz")!r}, **arrays)
"""
    without_osteojax(code + save, folder)
    found = np.load(tmp_path / "found.npz")
    expected = arrays(open_run(workdir))
    assert len(found.files) == sum(map(len, expected.values()))
    for kind, tree in expected.items():
        for path, array in tree.items():
            np.testing.assert_array_equal(found[f"{kind}/{path}"], array)
            assert found[f"{kind}/{path}"].dtype == np.float32


def test_nested_paths():
    assert nested({"a/0/k": 1, "a/1": 2, "b": 3}) == {"a": {"0": {"k": 1}, "1": 2}, "b": 3}


def test_nothing_is_left_where_a_format_fails(workdir, tmp_path):
    def failing(run_, folder):
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    with FORMATS.temporary():
        FORMATS.register("failing")(failing)
        with pytest.raises(UserError, match="no space is left"):
            export_run(workdir, tmp_path / "out", names=("stablehlo", "failing"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_earlier_export_stays_where_the_new_one_fails_and_is_replaced_where_it_does_not(
    workdir, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    export_run(workdir, out, step=3)
    monkeypatch.setattr(
        exporting.describe, "describe", lambda *_: (_ for _ in ()).throw(UserError("told to"))
    )
    with pytest.raises(UserError, match="told to"):
        export_run(workdir, out, step=6)
    assert open_exported(out).description["checkpoint_step"] == 3
    monkeypatch.undo()
    export_run(workdir, out, step=6, names=("safetensors",))
    assert not (out / "model.stablehlo").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match=r"holds no model\.stablehlo"):
        open_exported(out)


def test_a_bucket_holds_the_same_files(workdir, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OSTEOJAX_CACHE", str(tmp_path / "cache"))
    bucket = {"driver": "file", "path": f"{tmp_path / 'bucket'}/"}
    monkeypatch.setattr(storage, "_spec", lambda *_: bucket)
    for step in (3, 6):  # the second replaces the first
        assert run(["export", f"--workdir={workdir}", "--out=gs://bucket/model", f"--step={step}"]) == 0
    there = storage.localise("gs://bucket/model")
    names, expected = (  # Orbax draws the names of its own files
        {name for name in storage.local_names(place) if "/d/" not in name and "ocdbt" not in name}
        for place in (there, folder)
    )
    assert names == expected
    assert open_exported(there).description["checkpoint_step"] == 6


def test_a_folder_of_something_else_is_left_alone(workdir, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"holds no model.json; give another"):
        export_run(workdir, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--format=tflite"], "no format of export 'tflite'; there are"),
        (["--format=,"], "no format is named"),
        (["--step=7"], "there are best, last, 3, 6"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, capsys, flags, message):
    assert run(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *flags]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("osteojax export: ") and message in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size, stride, padding", [(3, 2, 1), (2, 2, 0), (3, 2, 0), (3, 1, 1)])
def test_the_portable_maximum_is_the_same_maximum(size, stride, padding):
    x = np.random.default_rng(0).standard_normal((2, 9, 12, 3)).astype(np.float32) - 5
    expected = max_pool(x, size, stride, padding)
    with portable_formulations():
        np.testing.assert_array_equal(max_pool(x, size, stride, padding), expected)
        jaxpr = str(jax.make_jaxpr(lambda x: max_pool(x, size, stride, padding))(x))
    assert "platform_index" not in jaxpr and "pad[" not in jaxpr


def onnx_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime")),
    reason="jax2onnx and onnxruntime are not installed: pip install 'osteojax[onnx]'",
)
quiet_onnx = pytest.mark.filterwarnings("ignore")  # jax2onnx imports half of the ecosystem


@needs_onnx
@quiet_onnx
def test_onnx_answers_as_the_run_does(workdir, tmp_path):
    export_run(workdir, tmp_path / "out", names=("onnx",))
    run_ = open_run(workdir)
    source = run_.dataset().source("test")
    images = np.stack([example["image"] for example in source])
    session = onnx_session(tmp_path / "out" / "model.onnx")
    (found,) = session.run(["logits"], {"image": images})
    np.testing.assert_allclose(found, run_.logits(source), atol=1e-5)
    (one,) = session.run(["logits"], {"image": images[:1]})
    np.testing.assert_allclose(one, found[:1], atol=1e-5)


def in_bfloat16(workdir):
    run_ = open_run(workdir)
    run_.config.model.dtype = "bfloat16"
    return run_


@pytest.mark.slow
def test_a_bfloat16_run_keeps_its_dtype_and_answers_in_float32(workdir, folder, tmp_path):
    images = np.random.default_rng(0).random((2, small.SIZE, small.SIZE, 1), np.float32)
    write_stablehlo(in_bfloat16(workdir), tmp_path)
    program = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    logits, exact = np.asarray(program.call(images)), open_exported(folder).logits(images)
    assert logits.dtype == np.float32 and 0 < np.abs(logits - exact).max() < 0.05


@needs_onnx
@quiet_onnx
def test_onnx_of_a_bfloat16_run_is_in_float32(workdir, folder, tmp_path):
    images = np.random.default_rng(0).random((2, small.SIZE, small.SIZE, 1), np.float32)
    write_onnx(in_bfloat16(workdir), tmp_path)
    (found,) = onnx_session(tmp_path / "model.onnx").run(["logits"], {"image": images})
    np.testing.assert_allclose(found, open_exported(folder).logits(images), atol=1e-5)


@needs_onnx
@quiet_onnx
def test_onnx_that_answers_otherwise_is_not_published(workdir, tmp_path, monkeypatch):
    import jax2onnx

    original = jax2onnx.to_onnx
    monkeypatch.setattr(
        jax2onnx, "to_onnx", lambda f, *a, **k: original(lambda image: f(image) + 1e-3, *a, **k)
    )
    with pytest.raises(UserError, match="converts this network wrongly"):
        export_run(workdir, tmp_path / "out", names=("onnx",))
    assert not (tmp_path / "out").exists()


@needs_onnx
@quiet_onnx
def test_what_cannot_be_converted_is_one_sentence(workdir, tmp_path, monkeypatch):
    import jax2onnx

    monkeypatch.setattr(
        jax2onnx, "to_onnx", lambda f, *a, **k: (_ for _ in ()).throw(NotImplementedError("no sinc\nmore"))
    )
    with pytest.raises(UserError, match=r"cannot convert tiny \(no sinc\); leave onnx out"):
        export_run(workdir, tmp_path / "out", names=("onnx",))


def test_onnx_without_its_extra_names_it(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"no jax2onnx\): pip install 'osteojax\[onnx\]'"):
        export_run(workdir, tmp_path / "out", names=("onnx",))


def run_of_random_weights(name, size):
    """What exporting needs of a run: statistics and scales far from neutral."""
    config = configs.load("configs/train/paper_resnet50.py")
    config.model.name = name
    params, stats = Network(build(ModelSection(name, conv_impl="native"), name, 3, seed=0)).init()
    rng = np.random.default_rng(0)
    params = {
        path: rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        if path.endswith("scale")
        else np.asarray(value)
        for path, value in params.items()
    }
    stats = {
        path: (rng.normal(0, 0.1, value.shape) if path.endswith("mean") else rng.uniform(0.5, 1, value.shape))
        .astype(np.float32)
        for path, value in stats.items()
    }  # fmt: skip
    record = {"image_shape": [size, size, 1], "origin": {"architecture": name}}
    return types.SimpleNamespace(
        config=config, record=record, class_names=["a", "b", "c"], params=params, batch_stats=stats, mark=None
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny"])
@needs_onnx
@quiet_onnx
def test_onnx_of_other_backbones(tmp_path, name):
    run_ = run_of_random_weights(name, 64)
    write_onnx(run_, tmp_path)  # which refuses what answers otherwise
    rng = np.random.default_rng(1)
    # Flat images of different brightness: of random pixels all images look alike to random weights.
    images = (
        rng.random((4, 64, 64, 1), np.float32) * np.linspace(0, 1, 4, dtype=np.float32)[:, None, None, None]
    )
    (found,) = onnx_session(tmp_path / "model.onnx").run(["logits"], {"image": images})
    expected = np.asarray(jax.jit(closed_forward(run_, "float32"))(images))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).max() > 100 * TOLERANCE * scale  # the images count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_small_patch16", "swin_t"])
@needs_onnx
@quiet_onnx
def test_onnx_refuses_interpolated_positions_and_windows(tmp_path, name):
    with pytest.raises(UserError, match=f"cannot convert {name} .*; leave onnx out"):
        write_onnx(run_of_random_weights(name, 64), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@quiet_onnx
def test_published_architectures(prepared, tmp_path, name):
    config = small.quick_config(prepared)
    config.model.update(name=name, conv_impl="auto")
    config.epochs = 1.0
    train(config, tmp_path / "run")
    formats = ["stablehlo", "orbax"] + (["onnx"] if importlib.util.find_spec("jax2onnx") else [])
    export_run(tmp_path / "run", tmp_path / "out", names=formats)
    run_ = open_run(tmp_path / "run")
    source = run_.dataset().source("test")
    images = np.stack([example["image"] for example in source])
    expected = run_.logits(source)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(
        open_exported(tmp_path / "out").logits(images) / scale, expected / scale, atol=TOLERANCE
    )
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore((tmp_path / "out" / "orbax" / "arrays").resolve())
    assert set(tree) == {"params", "batch_stats"}
    if "onnx" in formats:
        (found,) = onnx_session(tmp_path / "out" / "model.onnx").run(["logits"], {"image": images})
        np.testing.assert_allclose(found / scale, expected / scale, atol=TOLERANCE)
