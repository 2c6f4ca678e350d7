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
import re
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from data_prep.errors import UserError
from osteojax import groups as parameter_groups
from osteojax.initialise import build_shapes
from osteojax.mesh import make_mesh
from osteojax.network import Network
from osteojax.optimizer import make_schedule
from osteojax.progress import print_table
from osteojax.step import Recipe
from osteojax.train import compile_step

# Only the step's own program is compiled: a thousand steps shape no schedule's cost.
_STEPS = 1000
_CLASSES = 3
_IMAGE = (224, 224, 1)

# A transpose or copy below this many bytes is not worth a line.
LARGE_BYTES = 2**20

_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


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
class Collective:
    """One communication of the program.

    Attributes:
        kind: HLO opcode ("all-reduce", "all-gather", ...).
        elements: number of array elements that it carries on each chip.
        bytes: their size.
    """

    kind: str
    elements: int
    bytes: int


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
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices=_devices(topology))
    chips = mesh.devices.size
    if config.data.batch_size % chips:
        raise UserError(f"data.batch_size={config.data.batch_size} is not divided by the {chips} chips")

    compiled, gradient_bytes = compile_for(config, mesh)
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    return Report(
        topology=topology,
        chips=chips,
        chip=CHIPS[generation],
        batch_size=config.data.batch_size,
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
    network = Network(build_shapes(config, config.model.name, _CLASSES, mesh.size))
    params, batch_stats = network.init()
    groups = parameter_groups.chosen(config, network.stages)
    labels = parameter_groups.assign(groups, params)
    schedule = make_schedule(config.optimizer, _STEPS)
    recipe = Recipe(network, groups, labels, schedule, config, (1.0,) * _CLASSES)
    state = jax.eval_shape(recipe.init_state, params, batch_stats)
    rows = config.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *_IMAGE), jnp.float32),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    compiled, _ = compile_step(recipe, 0, state, batch, mesh)
    item = jnp.dtype(config.model.dtype).itemsize
    learning = parameter_groups.trainable_at(groups, labels, 0)
    return compiled, sum(item * math.prod(params[path].shape) for path in learning)


def ring_bytes(found: Sequence[Collective], chips: int) -> float:
    """Bytes that each chip sends for these collectives on a ring: an all-reduce goes round twice, the others once."""
    share = (chips - 1) / chips
    return sum(c.bytes * share * (2 if c.kind == "all-reduce" else 1) for c in found)


def ring_bound_bytes(gradient_bytes: int, chips: int) -> float:
    """The least that a ring must send to reduce the gradient (Patarasuk and Yuan 2009): 2 (n - 1) / n of it."""
    return 2 * (chips - 1) / chips * gradient_bytes


# `%name = type opcode(operands), attributes`; the type of a tuple is in parentheses.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")

_ON_CHIP = re.compile(r"\w+\[[\d,]*\]\{[^}]*S\(1\)[^}]*\}")
_NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def _arrays(type_: str) -> list[tuple[str, int]]:
    """(dtype, number of elements) of each array of an HLO type."""
    return [
        (dtype, math.prod(int(n) for n in shape.split(",") if n)) for dtype, shape, _ in _ARRAY.findall(type_)
    ]


def _bytes(type_: str) -> int:
    return sum(_ITEM_BYTES.get(dtype, 4) * size for dtype, size in _arrays(type_))


def hbm_bytes(text: str) -> int:
    """Bytes that the entry computation of a compiled program reads from and writes to main memory.

    Memory space 1 is the vector memory on the chip (`S(1)` in a layout); whatever is not there is in main memory. Each
    operand counts once, although a fusion may read it in several passes.
    """
    entry = text[re.search(r"^ENTRY ", text, re.MULTILINE).start() :]
    found = _INSTRUCTION.findall(entry)
    types = {name: type_ for name, type_, _, _ in found}
    total = 0
    for _, type_, opcode, rest in found:
        if opcode in _NO_TRAFFIC or opcode.endswith("-start") or "ConcatBitcast" in rest:
            continue
        if opcode.endswith("-done"):  # a copy between the two memories, whichever way
            total += _bytes(type_)
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
        total += sum(_bytes(_ON_CHIP.sub("", types.get(each, ""))) for each in operands)
        total += _bytes(_ON_CHIP.sub("", type_))
    return total


def collectives(text: str) -> tuple[Collective, ...]:
    """The communications of a compiled program, from its HLO text."""
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    found = []
    for _, type_, opcode, _ in _INSTRUCTION.findall(text):
        kind = opcode.removesuffix("-start")
        if kind not in kinds:
            continue
        # An asynchronous gather's type lists its operands and then its results.
        parts = _arrays(type_)
        if opcode.endswith("-start") and kind != "all-reduce":
            parts = parts[len(parts) // 2 :]
        size = sum(_ITEM_BYTES.get(dtype, 4) * count for dtype, count in parts)
        found.append(Collective(kind, sum(count for _, count in parts), size))
    return tuple(found)


def float32_convolutions(text: str) -> tuple[str, ...]:
    """Lines of the HLO text with a convolution one of whose operands is float32.

    Products of matrices, which a TPU's program also calls convolutions, have no image axes and do not count: the head
    is float32 by design.
    """
    types = {name: type_ for name, type_, _, _ in _INSTRUCTION.findall(text)}
    found = []
    for name, type_, opcode, rest in _INSTRUCTION.findall(text):
        if opcode != "convolution" or not re.search(r"dim_labels=\w*\d", rest):
            continue
        operands = re.findall(r"%?([\w.\-]+)", rest.partition(")")[0])
        if any(types.get(operand, "").startswith("f32[") for operand in operands):
            found.append(f"{name} = {type_} convolution({rest.partition('metadata')[0]}")
    return tuple(found)


def large_transposes(text: str) -> tuple[str, ...]:
    """Lines of the HLO text with a transpose, or a copy into another layout, of at least a megabyte."""
    types = {name: type_ for name, type_, _, _ in _INSTRUCTION.findall(text)}
    found = []
    for name, type_, opcode, rest in _INSTRUCTION.findall(text):
        if opcode not in ("transpose", "copy", "copy-start") or _bytes(type_) < LARGE_BYTES:
            continue
        operand = re.match(r"%?([\w.\-]+)", rest)
        source = types.get(operand.group(1), "") if operand else ""
        if opcode != "transpose" and _order(source) == _order(type_):
            continue  # moved between memories, or duplicated: no transposition
        found.append(f"{name} = {type_} {opcode}({source})")
    return tuple(found)


def _order(type_: str) -> str:
    """The order of axes in memory, without the tiling: "3,2,1,0" of f32[8,8,8,8]{3,2,1,0:T(8,128)}."""
    layout = re.search(r"\{([\d,]*)", type_)
    return layout.group(1) if layout else ""


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
