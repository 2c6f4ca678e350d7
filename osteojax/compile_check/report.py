"""A config's cost on hardware that is not there.

The roofline step time is the longest of what the chip's peak rate needs for the program's operations, its memory for
the bytes to and from it, and its links and its host's network for what the program sends (Williams et al. 2009). It is
a lower bound: nothing waits, and everything overlaps. The compiler's own `optimal_seconds` is not used, since it came
out negative for a whole ResNet-50.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from osteojax.compile_check.hardware import Chip, Topology
from osteojax.compile_check.program import (
    PAPER,
    OutOfMemory,
    Program,
    Shapes,
    compile_program,
    lower_program,
    ring_bound_bytes,
)
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError
from osteojax.progress import print_table
from osteojax.train.experiment import read_experiment

# A float32 image with its label and mask.
_ITEM = 4


@dataclasses.dataclass(frozen=True)
class Job:
    """How long a config runs, for hours and money.

    Attributes:
        images: of the training split; None where the question is not asked.
        epochs: of the config.
        price: of one chip for an hour, in the money of whoever gave it; None for none.
    """

    images: int | None = None
    epochs: float = 0.0
    price: float | None = None


NOT_ASKED = Job()


@dataclasses.dataclass(frozen=True)
class Report:
    """What a train step costs, and the job that it is a step of.

    Attributes:
        topology: as asked for.
        chips, hosts: in all slices.
        chip: peak rates.
        batch_size: global.
        shapes: of what the step is given.
        program: of one chip.
        job: its length and price.
    """

    topology: str
    chips: int
    hosts: int
    chip: Chip
    batch_size: int
    shapes: Shapes
    program: Program
    job: Job = NOT_ASKED

    @property
    def compute_seconds(self) -> float:
        """At the chip's peak rate."""
        return self.program.flops / self.chip.flops

    @property
    def memory_seconds(self) -> float | None:
        """At the full bandwidth of the chip's memory."""
        compiled = self.program.compiled
        return None if compiled is None else compiled.hbm_bytes / self.chip.bandwidth

    @property
    def ici_seconds(self) -> float:
        """At the full rate of the chip's links; of a program that was not compiled, for the gradient's ring."""
        return self.sent("ici") / self.chip.ici

    @property
    def dcn_seconds(self) -> float | None:
        """At the chip's share of its host's network; None where nobody says how much that is."""
        return None if self.chip.dcn is None else self.sent("dcn") / self.chip.dcn

    def sent(self, network: str) -> float:
        """Bytes that each chip sends over "ici" or "dcn" in a step."""
        if self.program.compiled is None:
            return ring_bound_bytes(self.program.gradient_bytes, self.chips) if network == "ici" else 0.0
        return sum(c.sent for c in self.program.compiled.collectives if c.network == network)

    @property
    def bounds(self) -> dict[str, float]:
        """What limits the step -> the seconds that it takes."""
        found = {
            "compute": self.compute_seconds,
            "memory": self.memory_seconds,
            "ici": self.ici_seconds,
            "dcn": self.dcn_seconds,
        }
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    @property
    def bound(self) -> str:
        """What limits the step most."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def step_seconds(self) -> float:
        """The least time that a step can take."""
        return self.bounds[self.bound]

    @property
    def images_per_second(self) -> float:
        """At the least step time, over all chips."""
        return self.batch_size / self.step_seconds

    @property
    def host_images_per_second(self) -> float:
        """That each host must read, decode and hand to its chips to keep them busy."""
        return self.images_per_second / self.hosts

    @property
    def host_bytes_per_second(self) -> float:
        """The same in bytes of float32 images."""
        return self.host_images_per_second * _ITEM * self.shapes.image_size**2 * self.shapes.channels

    @property
    def hours(self) -> float | None:
        """Of the whole training without validation and checkpoints; None where the number of images is not known."""
        if self.job.images is None:
            return None
        steps = math.ceil(self.job.epochs * math.ceil(self.job.images / self.batch_size))
        return steps * self.step_seconds / 3600

    @property
    def cost(self) -> float | None:
        """Of those hours on all chips, at the price that was given."""
        return (
            None if self.hours is None or self.job.price is None else self.hours * self.chips * self.job.price
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-serialisable fields, in bytes and seconds; None for what is not known."""
        compiled = self.program.compiled
        derived = {
            name: getattr(self, name)
            for name in (
                "bound",
                "step_seconds",
                "images_per_second",
                "host_images_per_second",
                "host_bytes_per_second",
                "hours",
                "cost",
            )
        }
        return {
            **dataclasses.asdict(self),
            "compiled": compiled is not None,
            "bounds": self.bounds,
            "sent_bytes": {network: self.sent(network) for network in ("ici", "dcn")},
            **derived,
        }


def compile_check(
    config: ml_collections.ConfigDict, topology: str, shapes: Shapes = PAPER, job: Job = NOT_ASKED
) -> Report:
    """Compiles the train step of a config for `topology` and reads its program.

    Needs no TPU, only libtpu (`pip install 'osteojax[tpu]'`); the batch size is `config.data.batch_size`, global. For
    GPUs, whose compiler is not here, the step is only lowered: see `lower_program`.

    Raises:
        OutOfMemory: the step does not fit a chip.
        UserError: no libtpu, an unknown topology, or a batch that its chips do not divide.
    """
    experiment, place = read_experiment(config), Topology.of(topology)
    if place.is_gpu:
        chips = place.sides[0]
        if experiment.mesh.data not in (-1, chips) or experiment.mesh.fsdp != 1:
            raise UserError(f"of GPUs only the whole {topology} is checked: mesh.data=-1 and mesh.fsdp=1")
        program = lower_program(config, make_mesh(1, 1, jax.devices()[:1]), chips, shapes, platform="cuda")
    else:
        mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp, devices=place.devices())
        chips = mesh.size
        program = compile_program(config, mesh, shapes, slices=place.slices)
    return Report(
        topology=topology,
        chips=chips,
        hosts=math.ceil(chips / place.chips_a_host),
        chip=place.chip,
        batch_size=experiment.data.batch_size,
        shapes=shapes,
        program=program,
        job=dataclasses.replace(job, epochs=experiment.epochs),
    )


def largest_batch(
    config: ml_collections.ConfigDict, topology: str, shapes: Shapes = PAPER, job: Job = NOT_ASKED
) -> tuple[Report, OutOfMemory]:
    """The largest batch that the compiler fits into the chips' memory, to an eighth, and why no larger one does.

    Starts from the config's batch, doubles or halves, then bisects. Every candidate is compiled.

    Raises:
        UserError: not even one image a chip fits; as `compile_check`; or for GPUs, whose memory nobody tells.
    """
    place = Topology.of(topology)
    if place.is_gpu:
        raise UserError("the largest batch is the compiler's to say, and that of GPUs is not here")

    def attempt(per_chip: int) -> Report | OutOfMemory:
        candidate = ml_collections.ConfigDict(config.to_dict())
        candidate.data.batch_size = per_chip * chips
        try:
            return compile_check(candidate, topology, shapes, job)
        except OutOfMemory as error:
            return error

    chips = math.prod(place.sides) * place.slices
    return _bisect(attempt, max(1, config.data.batch_size // chips))


def _bisect(attempt: Callable[[int], Report | OutOfMemory], start: int) -> tuple[Report, OutOfMemory]:
    """The result for the largest number that is a Report, within an eighth, and that of the least tried that is not."""
    fits: dict[int, Report] = {}
    fails: dict[int, OutOfMemory] = {}
    number = start
    while not (fits and fails) or min(fails) - max(fits) > max(1, max(fits) // 8):
        found = attempt(number)
        if isinstance(found, Report):
            fits[number] = found
        elif number == 1:
            raise UserError(f"not even one image a chip fits: {found}")
        else:
            fails[number] = found
        # Doubled or halved until it lies between one that fits and one that does not.
        low, high = max(fits, default=0), min(fails, default=3 * number)
        number = (low + high) // 2
    return fits[max(fits)], fails[min(fails)]


def print_report(report: Report) -> None:
    """The report as a table on the terminal."""
    per_chip, compiled, chip = report.batch_size // report.chips, report.program.compiled, report.chip
    rows = [
        ("floating-point operations", f"{report.program.flops / 1e12:.3f} TFLOP"),
        ("time at peak compute rate", _ms(report.compute_seconds)),
    ]
    if compiled is None:
        rows += [
            ("state: parameters, statistics, optimizer", _gib(report.program.state_bytes)),
            ("memory, its traffic, collectives", "not known: lowered for cuda, not compiled"),
        ]
    else:
        rows += [
            ("bytes to and from main memory", f"{compiled.hbm_bytes / 1e9:.2f} GB"),
            ("bytes accessed, on the chip too", f"{compiled.bytes_accessed / 1e9:.2f} GB"),
            ("time at full memory bandwidth", _ms(report.memory_seconds)),
            ("memory", f"{_gib(compiled.memory_bytes)} of {_gib(chip.memory)}"),
            ("of it temporary", _gib(compiled.temporary_bytes)),
            ("float32 convolutions", str(len(compiled.float32_convolutions))),
            ("large transposes", str(len(compiled.large_transposes))),
            ("collectives", _collectives(report, "ici")),
        ]
    bound = ring_bound_bytes(report.program.gradient_bytes, report.chips)
    rows += [
        (
            "sent to other chips (ICI, NVLink)",
            f"{report.sent('ici') / 1e6:.2f} MB, {_ms(report.ici_seconds)}",
        ),
        ("ring lower bound for the gradient", f"{bound / 1e6:.2f} MB"),
    ]
    if report.sent("dcn"):
        rows += [
            ("collectives between slices", _collectives(report, "dcn")),
            ("sent to other slices (DCN)", f"{report.sent('dcn') / 1e6:.2f} MB, {_ms(report.dcn_seconds)}"),
        ]
    rows += [
        (f"roofline step time ({report.bound})", _ms(report.step_seconds)),
        ("images/s at the roofline, all chips", f"{report.images_per_second:.0f}"),
        (
            f"which each of {report.hosts} hosts must feed",
            f"{report.host_images_per_second:.0f} images/s, {report.host_bytes_per_second / 1e9:.2f} GB/s",
        ),
    ]
    if report.hours is not None:
        rows.append(
            (
                f"{report.job.epochs:g} epochs of {report.job.images:,} images",
                f"{report.hours:.4g} h, {report.hours * report.chips:.4g} chip-hours",
            )
        )
    if report.cost is not None:
        rows.append((f"at {report.job.price:g} a chip-hour", f"{report.cost:.2f}"))
    title = f"train step for {report.topology}, {report.chips} chips, {per_chip} images each"
    print_table(title, ("of one chip", "value"), rows, to=sys.stdout)
    for line in (*compiled.float32_convolutions, *compiled.large_transposes) if compiled else ():
        print(line[:160])


def _ms(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _collectives(report: Report, network: str) -> str:
    """Count and volume of each kind."""
    compiled = report.program.compiled
    found = [c for c in compiled.collectives if c.network == network] if compiled else []
    kinds = sorted({c.kind for c in found})
    each = (
        f"{sum(c.kind == kind for c in found)} {kind} ({sum(c.sent for c in found if c.kind == kind) / 1e6:.1f} MB)"
        for kind in kinds
    )
    return ", ".join(each) or "none"
