"""compile-check: how a compiled program's text is read, and, where libtpu is installed, a step compiled for v5e."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from osteojax import compile_check as check
from osteojax import config as configs
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError

# Written by hand after the form of XLA's text: a bfloat16 convolution, one with a float32 operand, a copy into another
# layout and one between memories, a small transpose, and communications of both forms.
PROGRAM = """
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
    assert [line.split()[0] for line in check.float32_convolutions(PROGRAM)] == ["bad"]
    assert [line.split()[0] for line in check.large_transposes(PROGRAM)] == ["relaid"]
    assert check.collectives(PROGRAM) == (
        check.Collective("all-reduce", 1064, 4256),
        check.Collective("all-gather", 64, 256),
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
    assert check.hbm_bytes(program) == 4 * (500 + 1000 + 10 + 500)


def test_collectives_of_a_real_program():
    """A gradient summed over eight devices: XLA's own text, and the volume that data parallelism must have."""
    mesh = make_mesh()
    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    gradient = jax.jit(
        jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))), in_shardings=(whole, rows), out_shardings=whole
    )
    text = gradient.lower(np.zeros((24, 5), np.float32), np.zeros((16, 24), np.float32)).compile().as_text()
    assert [(c.kind, c.bytes) for c in check.collectives(text)] == [("all-reduce", 4 * 24 * 5)]


def test_roofline_and_ring():
    """By hand: 197 TFLOP take a v5e one second, 819 GB likewise; 8 chips send 2 * 7/8 of what they reduce."""
    report = check.Report(
        topology="v5e:2x4",
        chips=8,
        chip=check.CHIPS["v5e"],
        batch_size=64,
        flops=197e12,
        bytes_accessed=2 * 819e9,
        hbm_bytes=0,
        temporary_bytes=0,
        argument_bytes=0,
        output_bytes=0,
        collectives=(check.Collective("all-reduce", 100, 400), check.Collective("all-gather", 10, 80)),
        gradient_bytes=400,
        float32_convolutions=(),
        large_transposes=(),
    )
    assert (report.compute_seconds, report.memory_seconds, report.roofline_seconds) == (1, 2, 2)
    assert check.ring_bound_bytes(report.gradient_bytes, report.chips) == 2 * 7 / 8 * 400
    assert check.ring_bytes(report.collectives, report.chips) == 2 * 7 / 8 * 400 + 7 / 8 * 80


def test_an_unknown_generation_is_named():
    with pytest.raises(UserError, match="one of v4, v5e, v5p, v6e"):
        check.compile_check(configs.load("configs/train/paper_resnet50.py"), "v99:2x4")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_error_says_what_to_install():
    with pytest.raises(UserError, match=r"osteojax\[tpu\]"):
        check.compile_check(configs.load("configs/train/paper_resnet50.py"), "v5e:2x4")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_step_for_v5e_has_no_float32_convolution_and_reduces_little_more_than_the_gradient():
    overrides = [
        "--config.model.name=resnet18",
        "--config.model.dtype=bfloat16",
        "--config.data.batch_size=256",
        "--config.preset=all",
    ]
    report = check.compile_check(configs.load("configs/train/paper_resnet50.py", overrides), "v5e:2x4")
    assert report.chips == 8
    assert report.float32_convolutions == ()
    # Forward 1.8 GMAC an image, three times that with both gradients, 32 images a chip.
    assert report.flops == pytest.approx(2 * 3 * 1.8e9 * 32, rel=0.15)
    # Beyond the gradient only batch norm's sums and the metrics.
    bound = check.ring_bound_bytes(report.gradient_bytes, report.chips)
    assert bound <= check.ring_bytes(report.collectives, report.chips) <= 1.1 * bound


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("preset, bound, hbm_bound", [("all", 75e9, 50e9), ("stage3+", 35.7e9, 22e9)])
def test_resnet50_for_v5e_accesses_fewer_bytes_than_a_plain_version(preset, bound, hbm_bound):
    """A plain version at 256 images a chip: 82.8 GB with all learning, 35.7 GB frozen through stage 2."""
    overrides = [
        "--config.model.dtype=bfloat16",
        "--config.data.batch_size=2048",
        f"--config.preset={preset}",
    ]
    report = check.compile_check(configs.load("configs/train/paper_resnet50.py", overrides), "v5e:2x4")
    assert report.bytes_accessed < bound
    assert report.hbm_bytes < hbm_bound
    assert report.float32_convolutions == report.large_transposes == ()
