"""The segmenter's file is untrusted: what it does not hold is said, and nothing else is believed."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from data_prep.region.weights import make_unet, read_weights, write_weights
from osteojax.errors import UserError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    write_weights(path, make_unet(seed=5), {"seed": "5"})
    return path


def test_what_is_written_is_read_to_half_precision(file):
    model, sha256 = read_weights(file)
    assert len(sha256) == 64 and file.stat().st_size < 2**20
    given = make_unet(seed=5)
    given.eval()
    image = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 1)), jnp.float32)
    np.testing.assert_allclose(model(image), given(image), atol=0.02)
    assert not np.allclose(
        nnx.state(model)["last"]["kernel"][...], nnx.state(make_unet(6))["last"]["kernel"][...]
    )


def changed(file, tmp_path, change):
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


CHANGES = {
    "'last/kernel' has the shape of none": lambda t: t.pop("last/kernel"),
    "'last/kernel' has the shape (1, 1, 16, 4)": lambda t: t.update({"last/kernel": t["last/kernel"][..., :4].copy()}),
    "'more' has the shape (2,)": lambda t: t.update(more=np.zeros(2, np.float16)),
    "'last/bias' holds what is no finite number": lambda t: t.update({"last/bias": np.full(16, np.nan, np.float16)}),
    "'last/kernel' holds what is no finite number": lambda t: t.update(
        {"last/kernel": t["last/kernel"].astype(np.int32)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", CHANGES)
def test_tensors_that_do_not_fit_are_named(said, file, tmp_path):
    path = changed(file, tmp_path, CHANGES[said])
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert said in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_other_files_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as safetensors") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_too_large(tmp_path):
    with pytest.raises(UserError, match=r"region\.weights=.* cannot be read"):
        read_weights(tmp_path / "none")
    with pytest.raises(UserError, match=r"^init=.* cannot be read"):
        read_weights(tmp_path / "none", "init")
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(2**24 + 1)
    with pytest.raises(UserError, match="larger than 16 MiB"):
        read_weights(tmp_path / "large")
