"""The CRC of arrays on any layout is zlib's CRC of their bytes."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from osteojax.devices.mesh import make_mesh
from osteojax.run.crc import crc32_of_tree

LAYOUTS = (
    PartitionSpec(),
    PartitionSpec("data"),
    PartitionSpec("fsdp"),
    PartitionSpec(None, "fsdp"),
    PartitionSpec(None, None, "data"),
    PartitionSpec("fsdp", None, "data"),
    PartitionSpec("data", "fsdp"),
    PartitionSpec(("data", "fsdp")),
)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int8, np.int32, bool])
@pytest.mark.parametrize("spec", LAYOUTS, ids=str)
def test_it_is_zlibs_on_every_layout(dtype, spec):
    x = np.random.default_rng(0).normal(size=(16, 6, 12)).astype(dtype)
    placed = jax.device_put(x, NamedSharding(make_mesh(4, 2), spec))
    assert crc32_of_tree({"x": placed}) == {"['x']": zlib.crc32(x.tobytes())}


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 0), (1, 1, 1), (5, 7)])
def test_shapes_of_every_kind(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    assert crc32_of_tree([jnp.asarray(x)]) == {"[0]": zlib.crc32(x.tobytes())}


@pytest.mark.parametrize("change", ["a bit", "a sign", "two signs", "all signs", "exchanged", "shifted"])
def test_it_sees_what_a_sum_might_not(change):
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    y = x.copy()
    flat = y.reshape(-1)
    if change == "a bit":
        flat.view(np.uint32)[50] ^= np.uint32(1 << 17)
    elif change == "exchanged":
        flat[[3, 4]] = flat[[4, 3]]
    elif change == "shifted":
        flat[:] = np.roll(flat, 1)
    else:
        flat[: {"a sign": 1, "two signs": 2, "all signs": None}[change]] *= -1
    assert crc32_of_tree({"x": jnp.asarray(x)}) != crc32_of_tree({"x": jnp.asarray(y)})


def test_sixty_four_bits_count_whole():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=9)
        found = crc32_of_tree({"x": jnp.asarray(x)})
    assert found == {"['x']": zlib.crc32(x.tobytes())}
