"""compile-check: what follows from a program's figures, and, where libtpu is installed, steps compiled for TPUs."""

import importlib.util
import json
import math

import jax
import pytest

from osteojax import config as configs
from osteojax.cli.main import run
from osteojax.compile_check import program
from osteojax.compile_check import report as reports
from osteojax.compile_check.hardware import GPUS, TPUS, Topology
from osteojax.compile_check.program import (
    Compiled,
    OutOfMemory,
    Program,
    Shapes,
    compile_program,
    lower_program,
    ring_bound_bytes,
)
from osteojax.compile_check.report import Job, Report, compile_check
from osteojax.devices.hlo import Collective
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError

PAPER = "configs/train/paper_resnet50.py"
LIBTPU = importlib.util.find_spec("libtpu") is not None
with_libtpu = pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed: pip install 'osteojax[tpu]'")


def a_report(
    collectives=(),
    *,
    flops=0.0,
    hbm_bytes=0,
    batch=64,
    job=reports.NOT_ASKED,
    topology="v5e:2x4",
    shapes=program.PAPER,
):
    place = Topology.of(topology)
    compiled = Compiled(0.0, hbm_bytes, 0, 0, tuple(collectives), (), ())
    chips = math.prod(place.sides) * place.slices
    costs = Program(flops, 400, 0, compiled)
    return Report(topology, chips, chips // place.chips_a_host, place.chip, batch, shapes, costs, job)


def test_the_step_takes_as_long_as_what_limits_it():
    """By hand: a v5e does 197 TFLOP, moves 819 GB, sends 200 GB to other chips and 3.125 GB between slices a second."""
    over = {"ici": Collective("collective-permute", int(600e9), 2)}
    over["dcn"] = Collective("all-reduce", int(3.125e9), 2, "dcn")
    assert a_report(flops=197e12).bounds == {"compute": 1, "memory": 0, "ici": 0, "dcn": 0}
    assert a_report(flops=197e12, hbm_bytes=2 * 819 * 10**9).bounds["memory"] == 2
    both = a_report(over.values(), flops=197e12)
    assert (both.bounds["ici"], both.bounds["dcn"]) == (3, 1)
    assert (both.bound, both.step_seconds) == ("ici", 3)
    assert a_report(topology="v4:2x2x2").dcn_seconds is None


def test_hours_cost_and_what_the_hosts_must_feed():
    report = a_report(flops=197e12, job=Job(images=1000, epochs=4.5, price=2.0))
    # 16 steps an epoch, the last one not full; 4.5 epochs are 72 steps of a second.
    assert report.hours == 72 / 3600
    assert report.cost == pytest.approx(72 / 3600 * 8 * 2)
    assert report.images_per_second == 64
    assert report.host_images_per_second == 32  # two hosts of four chips
    assert report.host_bytes_per_second == 32 * 4 * 224 * 224
    assert a_report(flops=1.0).hours is None
    assert a_report(flops=1.0, job=Job(images=10)).cost is None


def test_the_report_is_json_and_holds_what_the_table_shows(capsys):
    report = a_report([Collective("all-reduce", 400, 8)], flops=197e12, job=Job(1000, 4.5, 2.0))
    fields = json.loads(json.dumps(report.to_dict()))
    assert fields["sent_bytes"] == {"ici": 700.0, "dcn": 0.0}
    assert (fields["hosts"], fields["bound"], fields["step_seconds"]) == (2, "compute", 1.0)
    assert fields["program"]["compiled"]["collectives"][0]["group"] == 8
    reports.print_report(report)
    table = " ".join(capsys.readouterr().out.split())
    for words in (
        "roofline step time (compute)",
        "1000.00 ms",
        "of 2 hosts",
        "0.02 h, 0.16 chip-hours",
        "0.32",
    ):
        assert words in table


@pytest.mark.parametrize(
    "name, message",
    [
        ("v99:2x4", "write a generation"),
        ("v5e", "write a generation"),
        ("v5e:2x2x2", "v5e is a grid of 2 sides, as in v5e:2x2"),
        ("v4:2x2", "v4 is a grid of 3 sides"),
        ("v5e:2x0", "between 1 and 24"),
        ("v5e:2x2*0", "between 1 and 24"),
        ("v5e:512x512", "between 1 and 24"),
        ("h100:2x4", "GPUs are a number"),
        ("h100:8*2", "GPUs are a number"),
        ("v5e:2x2; rm", "write a generation"),
    ],
)
def test_a_topology_that_nobody_sells_is_one_sentence(name, message):
    with pytest.raises(UserError, match=message):
        Topology.of(name)


def test_topologies():
    assert Topology.of("v5e:16x16*4") == Topology("v5e", (16, 16), 4)
    assert Topology.of("h100:4").chips_a_host == 4 and Topology.of("h100:16").chips_a_host == 8
    assert TPUS.keys().isdisjoint(GPUS)


@pytest.mark.parametrize("limit, start", [(1, 1), (1, 64), (7, 1), (100, 32), (100, 4096), (4096, 1)])
def test_the_largest_batch_is_found_to_an_eighth(limit, start):
    tried = []

    def attempt(number):
        tried.append(number)
        return a_report(batch=number) if number <= limit else OutOfMemory(f"{number} is too many")

    best, larger = reports._bisect(attempt, start)
    assert limit * 8 / 9 - 1 <= best.batch_size <= limit < int(str(larger).split()[0])
    assert len(set(tried)) == len(tried) < 2 * math.log2(4096) + 4


def test_a_model_of_which_not_one_image_fits_is_said_so():
    with pytest.raises(UserError, match="not even one image a chip fits: the weights alone"):
        reports._bisect(lambda number: OutOfMemory("the weights alone are too large"), 16)


def test_a_step_lowered_for_cuda_counts_the_operations_of_one_device(quick):
    """The count before the compiler's work is that of the compiled step but for what it fuses away: within a tenth."""
    quick.data.batch_size = 16
    quick.model.conv_impl = "native"
    one, two = (
        lower_program(quick, make_mesh(1, 1, jax.devices()[:1]), n, Shapes(32, 3), platform="cuda")
        for n in (1, 2)
    )
    assert one.compiled is None and one.flops == pytest.approx(2 * two.flops, rel=0.1)
    here = compile_program(quick, make_mesh(1, 1, jax.devices()[:1]), Shapes(32, 3))
    assert one.flops == pytest.approx(here.flops, rel=0.1)
    assert (one.gradient_bytes, one.state_bytes) == (here.gradient_bytes, here.state_bytes)


def test_gpus_are_told_with_less(quick, capsys):
    quick.data.batch_size, quick.mesh.data = 16, -1
    report = compile_check(quick, "h100:8", Shapes(32, 3))
    assert report.sent("ici") == ring_bound_bytes(report.program.gradient_bytes, 8)
    assert report.memory_seconds is None and set(report.bounds) == {"compute", "ici"}
    reports.print_report(report)
    assert "not known: lowered for cuda, not compiled" in capsys.readouterr().out
    with pytest.raises(UserError, match="that of GPUs is not here"):
        reports.largest_batch(quick, "h100:8")
    quick.mesh.fsdp = 2
    with pytest.raises(UserError, match=r"mesh\.fsdp=1"):
        compile_check(quick, "h100:8")


@pytest.mark.parametrize("flag", ["--images=0", "--price=-1", "--image_size=0", "--classes=-3"])
def test_values_without_sense_are_refused_at_the_door(flag, capsys):
    assert run(["compile-check", f"--config={PAPER}", "--topology=h100:8", flag]) == 2
    assert "must be more than nothing" in capsys.readouterr().err


def test_without_a_dataset_a_map_beside_the_image_is_a_second_channel(tmp_path, quick, capsys):
    import small

    quick.data.dir, quick.data.batch_size, quick.mesh.data = "", 16, -1
    file = small.write_config(tmp_path / "train.py", quick)
    command = [
        "compile-check",
        f"--config={file}",
        "--topology=h100:8",
        "--json",
        f"--image_size={small.SIZE}",
    ]
    assert run([*command, "--channels=2"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["shapes"] == {"image_size": small.SIZE, "classes": 3, "channels": 2}


def test_shapes_and_images_are_those_of_the_dataset(prepared, tmp_path, quick, capsys):
    import small

    quick.data.batch_size, quick.mesh.data = 16, -1
    file = small.write_config(tmp_path / "train.py", quick)
    command = ["compile-check", f"--config={file}", "--topology=h100:8", "--json", "--price=3"]
    assert run(command) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["shapes"] == {"image_size": small.SIZE, "classes": 3, "channels": 1}
    assert fields["job"]["images"] > 0 and fields["cost"] == pytest.approx(fields["hours"] * 8 * 3)


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_error_says_what_to_install():
    with pytest.raises(UserError, match=r"osteojax\[tpu\]"):
        compile_check(configs.load(PAPER), "v5e:2x4")


@with_libtpu
@pytest.mark.parametrize(
    "name, count",
    [
        ("v5e:1x1", 1),
        ("v5e:16x16", 256),
        ("v4:2x2x2", 8),
        ("v5p:4x4x4", 64),
        ("v6e:2x4", 8),
        ("v6e:4x4*2", 32),
    ],
)
def test_slices_have_their_chips(name, count):
    devices = Topology.of(name).devices()
    assert len(devices) == count
    with pytest.raises(UserError, match="slice that there is"):
        Topology.of("v5e:3x5").devices()


def resnet18(*overrides):
    return configs.load(
        PAPER,
        ["--config.model.name=resnet18", "--config.model.dtype=bfloat16", "--config.preset=all", *overrides],
    )


@pytest.mark.slow
@with_libtpu
def test_the_step_for_v5e_has_no_float32_convolution_and_reduces_little_more_than_the_gradient():
    report = compile_check(resnet18("--config.data.batch_size=256"), "v5e:2x4")
    assert report.chips == 8
    assert report.program.compiled.float32_convolutions == ()
    # Forward 1.8 GMAC an image, three times that with both gradients, 32 images a chip.
    assert report.program.flops == pytest.approx(2 * 3 * 1.8e9 * 32, rel=0.15)
    # Beyond the gradient only batch norm's sums and the metrics.
    bound = ring_bound_bytes(report.program.gradient_bytes, report.chips)
    assert bound <= report.sent("ici") <= 1.1 * bound
    assert report.sent("dcn") == 0


@pytest.mark.slow
@with_libtpu
def test_between_two_slices_each_chip_sends_its_share_of_the_gradient():
    report = compile_check(
        resnet18("--config.data.batch_size=128", "--config.model.batch_norm=per_device"), "v5e:2x2*2"
    )
    assert report.chips == 8
    # Reduced within a slice of four chips first: between two slices a quarter of the gradient from each. Small
    # parameters are not worth scattering and go whole.
    share = report.program.gradient_bytes / 4
    assert share <= report.sent("dcn") <= 1.5 * share


@pytest.mark.slow
@with_libtpu
def test_a_batch_that_does_not_fit_says_by_how_much():
    with pytest.raises(OutOfMemory, match=r"32768 images a step do not fit: .*exceeds available HBM"):
        compile_check(resnet18("--config.data.batch_size=32768"), "v5e:2x2")


@pytest.mark.slow
@with_libtpu
@pytest.mark.parametrize("preset, bound, hbm_bound", [("all", 75e9, 50e9), ("stage3+", 35.7e9, 22e9)])
def test_resnet50_for_v5e_accesses_fewer_bytes_than_a_plain_version(preset, bound, hbm_bound):
    """A plain version at 256 images a chip: 82.8 GB with all learning, 35.7 GB frozen through stage 2."""
    overrides = [
        "--config.model.dtype=bfloat16",
        "--config.data.batch_size=2048",
        f"--config.preset={preset}",
    ]
    compiled = compile_check(configs.load(PAPER, overrides), "v5e:2x4").program.compiled
    assert compiled.bytes_accessed < bound
    assert compiled.hbm_bytes < hbm_bound
    assert compiled.float32_convolutions == compiled.large_transposes == ()
