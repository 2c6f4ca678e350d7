"""The real train step compiled ahead of time for TPUs that are not there, and what its program says of its cost.

The roofline step time is the longer of the time that the chip's peak rate needs for the program's floating-point
operations and the time that its memory needs for the bytes that the program accesses (Williams et al. 2009). Both
counts are the compiler's own; its `optimal_seconds` is not used, since it came out negative for a whole ResNet-50.

The compiler's bytes are those of all operands and results, wherever they live: what a chip keeps in its own vector
memory, and the copies there and back, count like the rest. `hbm_bytes` leaves that out.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from osteojax.devices.hlo import (
    Collective,
    collectives,
    float32_convolutions,
    hbm_bytes,
    large_transposes,
)
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError
from osteojax.models.build import build_shapes
from osteojax.models.network import Network
from osteojax.progress import print_table
from osteojax.train.experiment import read_experiment
from osteojax.train.parameter_groups import trainable_at
from osteojax.train.step import Recipe, compile_step

# Only the step's own program is compiled: a thousand steps shape no schedule's cost.
_STEPS = 1000
_CLASSES = 3
_IMAGE = (224, 224, 1)


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip."""

    flops: float
    """bfloat16 floating-point operations a second."""
    bandwidth: float
    """Bytes a second of the chip's memory."""


# https://cloud.google.com/tpu/docs/v5e, .../v4, .../v5p and .../v6e, "System architecture".
CHIPS = {
    "v4": Chip(275e12, 1228e9),
    "v5e": Chip(197e12, 819e9),
    "v5p": Chip(459e12, 2765e9),
    "v6e": Chip(918e12, 1640e9),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiled step costs one chip.

    Attributes:
        topology: as asked for; `chips` and `chip` follow from it.
        batch_size: global.
        flops, bytes_accessed: of the whole program.
        hbm_bytes: of those, to and from the chip's main memory (see the function of that name).
        temporary_bytes, argument_bytes, output_bytes: of the chip's memory; arguments are donated to outputs.
        collectives: the program's communications.
        gradient_bytes: of the parameters that learn, in the compute dtype (a kernel's gradient is summed over the
            chips before it is cast to float32): what data parallelism must reduce.
        float32_convolutions: convolutions with a float32 operand, one line of the program each.
        large_transposes: transposes and layout-changing copies of at least a megabyte, likewise.
    """

    topology: str
    chips: int
    chip: Chip
    batch_size: int
    flops: float
    bytes_accessed: float
    hbm_bytes: int
    temporary_bytes: int
    argument_bytes: int
    output_bytes: int
    collectives: tuple[Collective, ...]
    gradient_bytes: int
    float32_convolutions: tuple[str, ...]
    large_transposes: tuple[str, ...]

    @property
    def compute_seconds(self) -> float:
        """At the chip's peak rate."""
        return self.flops / self.chip.flops

    @property
    def memory_seconds(self) -> float:
        """At the full bandwidth of the chip's memory."""
        return self.bytes_accessed / self.chip.bandwidth

    @property
    def roofline_seconds(self) -> float:
        """The least time that a step can take."""
        return max(self.compute_seconds, self.memory_seconds)


def compile_check(config: ml_collections.ConfigDict, topology: str) -> Report:
    """Compiles the train step of a config for `topology`, say "v5e:2x4", and reads its program.

    Needs no TPU, only libtpu (`pip install 'osteojax[tpu]'`); the batch size is `config.data.batch_size`, global.

    Raises:
        UserError: no libtpu, an unknown topology, or a batch that its chips do not divide.
    """
    generation = topology.partition(":")[0]
    if generation not in CHIPS:
        raise UserError(f"topology {topology!r}: the generation is one of {', '.join(CHIPS)}, as in v5e:2x4")
    experiment = read_experiment(config)
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp, devices=_devices(topology))
    chips = mesh.devices.size
    if experiment.data.batch_size % chips:
        raise UserError(f"data.batch_size={experiment.data.batch_size} is not divided by the {chips} chips")

    compiled, gradient_bytes = compile_for(config, mesh)
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    if cost is None or memory is None or text is None:
        raise UserError(
            f"this libtpu tells nothing of a program for {topology}; install the one of constraints.txt"
        )
    return Report(
        topology=topology,
        chips=chips,
        chip=CHIPS[generation],
        batch_size=experiment.data.batch_size,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        hbm_bytes=hbm_bytes(text),
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        collectives=collectives(text),
        gradient_bytes=gradient_bytes,
        float32_convolutions=float32_convolutions(text),
        large_transposes=large_transposes(text),
    )


def _devices(topology: str) -> list[jax.Device]:
    # There is no TPU to ask: without these libtpu waits half a minute for a metadata server.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no compiler for {topology}: {reason}; install libtpu with `pip install 'osteojax[tpu]'` and name "
            "a topology as in v5e:2x4"
        ) from error


def compile_for(config: ml_collections.ConfigDict, mesh: Mesh) -> tuple[jax.stages.Compiled, int]:
    """The first train step of a config compiled for a mesh, and the bytes of its gradient in the compute dtype."""
    experiment = read_experiment(config)
    model = experiment.model
    network = Network(build_shapes(model, model.name, _CLASSES, devices=mesh.size))
    params, batch_stats = network.init()
    recipe = Recipe.of(experiment, network, _STEPS, (1.0,) * _CLASSES)
    state = jax.eval_shape(recipe.init_state, params, batch_stats)
    rows = experiment.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *_IMAGE), jnp.float32),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    compiled, _ = compile_step(recipe, 0, state, batch, mesh)
    item = jnp.dtype(model.dtype).itemsize
    learning = trainable_at(recipe.groups, recipe.labels, 0)
    return compiled, sum(item * math.prod(params[path].shape) for path in learning)


def ring_bytes(found: Sequence[Collective], chips: int) -> float:
    """Bytes that each chip sends for these collectives on a ring: an all-reduce goes round twice, the others once."""
    share = (chips - 1) / chips
    return sum(c.bytes * share * (2 if c.kind == "all-reduce" else 1) for c in found)


def ring_bound_bytes(gradient_bytes: int, chips: int) -> float:
    """The least that a ring must send to reduce the gradient (Patarasuk and Yuan 2009): 2 (n - 1) / n of it."""
    return 2 * (chips - 1) / chips * gradient_bytes


def print_report(report: Report) -> None:
    """The report as a table on the terminal."""
    per_chip = report.batch_size // report.chips
    sent = ring_bytes(report.collectives, report.chips)
    bound_bytes = ring_bound_bytes(report.gradient_bytes, report.chips)
    bound = "compute" if report.compute_seconds >= report.memory_seconds else "memory"
    print_table(
        f"train step for {report.topology}, {report.chips} chips, {per_chip} images each",
        ("of one chip", "value"),
        [
            ("floating-point operations", f"{report.flops / 1e12:.3f} TFLOP"),
            ("bytes accessed", f"{report.bytes_accessed / 1e9:.2f} GB"),
            ("of them to and from main memory", f"{report.hbm_bytes / 1e9:.2f} GB"),
            ("time at peak compute rate", f"{report.compute_seconds * 1e3:.2f} ms"),
            ("time at full memory bandwidth", f"{report.memory_seconds * 1e3:.2f} ms"),
            (f"roofline step time ({bound})", f"{report.roofline_seconds * 1e3:.2f} ms"),
            ("images/s at the roofline", f"{per_chip / report.roofline_seconds:.0f}"),
            ("temporary memory", f"{report.temporary_bytes / 2**30:.2f} GiB"),
            ("arguments", f"{report.argument_bytes / 2**30:.3f} GiB"),
            ("outputs", f"{report.output_bytes / 2**30:.3f} GiB"),
            ("collectives", str(len(report.collectives))),
            ("sent in them, as a ring", f"{sent / 1e6:.2f} MB"),
            ("ring lower bound for the gradient", f"{bound_bytes / 1e6:.2f} MB"),
            ("float32 convolutions", str(len(report.float32_convolutions))),
            ("large transposes", str(len(report.large_transposes))),
        ],
        to=sys.stdout,
    )
    for line in (*report.float32_convolutions, *report.large_transposes):
        print(line[:160])
