"""How the text of a compiled program is read: hand-written lines, and XLA's own programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from osteojax.devices import hlo
from osteojax.devices.hlo import Collective
from osteojax.devices.mesh import make_mesh

# Written by hand after the form of XLA's text: a bfloat16 convolution, one with a float32 operand, a copy into another
# layout and one between memories, a small transpose, and communications of both forms.
PROGRAM = """
HloModule jit_step, is_scheduled=true, num_partitions=8

ENTRY %main {
  %x = bf16[32,56,56,64]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[3,3,64,64]{3,2,1,0} parameter(1)
  %k32 = f32[3,3,64,64]{3,2,1,0} parameter(2)
  %good = f32[32,56,56,64]{3,2,1,0} convolution(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %bad = f32[32,56,56,64]{3,2,1,0} convolution(%x, %k32), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %dense = f32[32,3]{1,0} convolution(%k32, %k32), dim_labels=bf_io->bf
  %relaid = bf16[32,56,56,64]{0,3,2,1:T(8,128)(2,1)} copy(%x)
  %moved = bf16[32,56,56,64]{3,2,1,0:T(8,128)(2,1)S(1)} copy(%x)
  %small = bf16[3,3,64,64]{2,3,1,0} transpose(%k), dimensions={0,1,3,2}
  %sum = (f32[64]{0}, f32[1000]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %gather = (f32[8]{0}, f32[64]{0}) all-gather-start(%c), dimensions={0}
  %gathered = f32[64]{0} all-gather-done(%gather)
}
"""


def test_a_program_is_read_right():
    assert [line.split()[0] for line in hlo.float32_convolutions(PROGRAM)] == ["bad"]
    assert [line.split()[0] for line in hlo.large_transposes(PROGRAM)] == ["relaid"]
    assert hlo.collectives(PROGRAM.strip()) == (
        Collective("all-reduce", 4256, 8),
        Collective("all-gather", 256, 8),
    )


def test_bytes_of_main_memory_by_hand():
    """A fusion with one operand and its result on the chip, brought there and back by copies."""
    program = """
ENTRY %main {
  %x = f32[1000]{0:T(256)} parameter(0)
  %y = f32[500]{0:T(256)} parameter(1)
  %fetch = (f32[500]{0:T(256)S(1)}, f32[500]{0:T(256)}, u32[]{:S(2)}) copy-start(%y)
  %fetched = f32[500]{0:T(256)S(1)} copy-done(%fetch)
  %joined = f32[500]{0:T(256)S(1)} custom-call(%fetched), custom_call_target="ConcatBitcast"
  %f = (f32[10]{0:T(256)}, f32[500]{0:T(256)S(1)}) fusion(%x, %joined), kind=kLoop, calls=%body
  %z = f32[500]{0:T(256)S(1)} get-tuple-element(%f), index=1
  %leave = (f32[500]{0:T(256)}, f32[500]{0:T(256)S(1)}, u32[]{:S(2)}) copy-start(%z)
  ROOT %left = f32[500]{0:T(256)} copy-done(%leave)
}
"""
    assert hlo.hbm_bytes(program) == 4 * (500 + 1000 + 10 + 500)


def test_collectives_of_a_real_program():
    """A gradient summed over eight devices: XLA's own text, and the volume that data parallelism must have."""
    mesh = make_mesh()
    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))), in_shardings=(whole, rows), out_shardings=whole
    )
    text = gradient.lower(np.zeros((24, 5), np.float32), np.zeros((16, 24), np.float32)).compile().as_text()
    assert [(c.kind, c.bytes) for c in hlo.collectives(text)] == [("all-reduce", 4 * 24 * 5)]


LINES = {
    # Of eight chips in two groups of four; who is in a group does not matter to a ring.
    "%r = f32[100]{0} all-reduce(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add": (
        "all-reduce",
        400,
        4,
        600,
    ),
    "%r = f32[100]{0} all-reduce(%a), replica_groups=[2,4]<=[8], to_apply=%add": ("all-reduce", 400, 4, 600),
    "%r = f32[100]{0} all-reduce(%a), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add": (
        "all-reduce",
        400,
        2,
        400,
    ),
    "%r = f32[100]{0} all-reduce(%a), replica_groups={}, to_apply=%add": ("all-reduce", 400, 8, 700),
    "%r = f32[100]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add": ("all-reduce", 400, 1, 0),
    # What comes out of a reduce-scatter is an eighth of what goes in.
    "%r = bf16[100]{0} reduce-scatter(%a), replica_groups=[1,8]<=[8]": ("reduce-scatter", 1600, 8, 1400),
    "%r = bf16[800]{0} all-gather(%a), replica_groups=[1,8]<=[8]": ("all-gather", 1600, 8, 1400),
    "%r = (s8[100]{0}, s8[800]{0}, u32[]{:S(2)}, u32[]{:S(2)}) all-gather-start(%a), replica_groups=[1,8]<=[8]": (
        "all-gather",
        800,
        8,
        700,
    ),
    "%r = f64[8]{0} all-to-all(%a), replica_groups={{0,1},{2,3},{4,5},{6,7}}": ("all-to-all", 64, 2, 32),
    "%r = s64[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}": (
        "collective-permute",
        64,
        2,
        64,
    ),
    "%r = s64[8]{0} collective-permute(%a), source_target_pairs={{0,0},{1,1}}": (
        "collective-permute",
        64,
        1,
        0,
    ),
    "%r = (f8e4m3fn[8]{0}, f8e4m3fn[8]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}": (
        "collective-permute",
        8,
        2,
        8,
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_what_a_collective_sends_follows_from_its_kind_and_its_group(line):
    (found,) = hlo.collectives(f"HloModule m, num_partitions=8\n\nENTRY %main {{\n  {line}\n}}\n")
    assert (found.kind, found.bytes, found.group, found.sent) == LINES[line]
    assert found.network == "ici"


def test_what_goes_between_slices_is_a_send_to_the_host_that_names_its_reduction():
    text = (
        "HloModule m, num_partitions=8\n\nENTRY %main {\n"
        "  %send = (f32[1,2,128]{2,1,0:T(2,128)}, u32[], token[]) send(%a, %t), channel_id=3, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
        "  %recv = (f32[1,2,128]{2,1,0:T(2,128)}, u32[], token[]) recv(%t), channel_id=2, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
        "  %plain = (f32[8]{0}, u32[], token[]) send(%a, %t), channel_id=4\n}\n"
    )
    assert hlo.collectives(text, 4) == (Collective("all-reduce", 1024, 4, "dcn"),)
    assert hlo.collectives(text, 4)[0].sent == 2 * 3 / 4 * 1024


def test_an_unknown_dtype_is_not_counted_as_anything():
    with pytest.raises(KeyError, match="q7"):
        hlo.collectives("HloModule m\n  %r = q7[100]{0} all-reduce(%a)\n")


def test_every_collective_of_a_real_program_over_groups():
    """XLA's own text for each of `jax.lax`'s collectives over groups of four and of two, against sizes by hand."""
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))
    spec = PartitionSpec(("a", "b"))

    def program(body):
        mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        text = jax.jit(mapped).lower(np.zeros((64, 6), np.float32)).compile().as_text()
        return [(c.kind, c.bytes, c.group) for c in hlo.collectives(text)]

    each = 8 * 6 * 4  # bytes of one device's rows
    lax = jax.lax
    assert program(lambda x: lax.psum(x, "b")) == [("all-reduce", each, 2)]
    assert program(lambda x: lax.psum(x, "a")) == [("all-reduce", each, 4)]
    assert program(lambda x: lax.all_gather(x, "a").sum(0)) == [("all-gather", 4 * each, 4)]
    scatter = functools.partial(lax.psum_scatter, axis_name="a", tiled=True)
    assert program(lambda x: jnp.tile(scatter(x), (4, 1))) == [("reduce-scatter", each, 4)]
    permute = functools.partial(lax.ppermute, axis_name="a", perm=[(0, 1), (1, 2)])
    assert program(permute) == [("collective-permute", each, 2)]


def test_slices_are_kept_together_and_fsdp_within_one():
    class Device:
        platform = "tpu"

        def __init__(self, number, slice_index):
            self.number, self.slice_index = number, slice_index

    devices = [Device(number, number % 2) for number in range(8)]
    mesh = make_mesh(-1, 2, devices)
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(Exception, match="the 4 devices of a slice"):
        make_mesh(-1, 8, devices)
    Device.platform = "gpu"  # whose index is the host's: parameters may be split over hosts
    assert [d.number for d in make_mesh(-1, 8, devices).devices.flat] == list(range(8))
