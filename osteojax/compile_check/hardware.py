"""TPU slices and GPUs that are not there: their peak rates, and devices that the real compiler compiles for."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping

import jax
from jax.experimental import topologies

from osteojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip.

    Attributes:
        flops: bfloat16 floating-point operations a second.
        bandwidth: bytes a second of the chip's memory.
        memory: bytes of it.
        ici: bytes a second that a chip sends over all its links to the others together.
        dcn: bytes a second of a chip's share of its host's network; None where the maker does not say.
    """

    flops: float
    bandwidth: float
    memory: float
    ici: float
    dcn: float | None = None


GIB = 2.0**30
# https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p and .../v6e, "System architecture". ICI is told there in both
# directions together or in Gbit/s: here one direction, in bytes. DCN of v5e and v6e: a pod's 6.4 and 25.6 Tbit/s over
# its 256 chips.
TPUS = {
    "v4": Chip(275e12, 1228e9, 32 * GIB, 300e9),
    "v5e": Chip(197e12, 819e9, 16 * GIB, 200e9, 6.4e12 / 8 / 256),
    "v5p": Chip(459e12, 2765e9, 95 * GIB, 600e9, 50e9 / 8),
    "v6e": Chip(918e12, 1640e9, 32 * GIB, 400e9, 25.6e12 / 8 / 256),
}
# https://www.nvidia.com/en-us/data-center/{a100,h100}: SXM, without sparsity; `ici` is NVLink, one direction.
GPUS = {
    "a100": Chip(312e12, 2039e9, 80e9, 300e9),
    "h100": Chip(989e12, 3350e9, 80e9, 450e9),
    "h200": Chip(989e12, 4800e9, 141e9, 450e9),
}
# A v4 chip's two cores act as one device, as `jax.devices()` has it there.
_OPTIONS: Mapping[str, Mapping[str, str]] = {"v4": {"chip_config_name": "megacore"}}
_NAME = re.compile(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?")
_SIDES = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
_CHIPS_A_HOST = 4
_MOST_CHIPS_A_SIDE = 24


@dataclasses.dataclass(frozen=True)
class Topology:
    """What a name such as "v5e:4x4", "v5p:2x2x2*4" (four slices of it) or "h100:8" stands for.

    Attributes:
        generation: of the chips.
        sides: of one slice's grid, in chips.
        slices: of which there are several only for TPUs.
    """

    generation: str
    sides: tuple[int, ...]
    slices: int = 1

    @classmethod
    def of(cls, name: str) -> "Topology":
        """Raises UserError for one that no maker sells."""
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in TPUS | GPUS:
            raise UserError(
                f"topology {name!r}: write a generation ({', '.join(TPUS | GPUS)}) and its grid, as in v5e:4x4, "
                "v5p:2x2x2, h100:8, or v5e:4x4*2 for two slices"
            )
        sides = tuple(int(side) for side in match[2].split("x"))
        found = cls(match[1], sides, int(match[3] or 1))
        if not all(1 <= side <= _MOST_CHIPS_A_SIDE for side in sides) or found.slices < 1:
            raise UserError(f"topology {name!r}: each side is between 1 and {_MOST_CHIPS_A_SIDE} chips")
        if found.is_gpu and (len(sides) > 1 or found.slices > 1):
            raise UserError(f"topology {name!r}: GPUs are a number, as in {found.generation}:8")
        if not found.is_gpu and len(sides) != _SIDES[found.generation]:
            raise UserError(
                f"topology {name!r}: {found.generation} is a grid of {_SIDES[found.generation]} sides, as in "
                f"{found.generation}:{'x'.join(['2'] * _SIDES[found.generation])}"
            )
        return found

    @property
    def is_gpu(self) -> bool:
        """Whether its chips are GPUs."""
        return self.generation in GPUS

    @property
    def chip(self) -> Chip:
        """One of its chips."""
        return (TPUS | GPUS)[self.generation]

    def devices(self) -> list[jax.Device]:
        """Of all slices, to compile for.

        Raises:
            UserError: no libtpu, or it knows no such slice.
        """
        # There is no TPU to ask: without these libtpu waits half a minute for a metadata server.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # any: the topology says what there is
        # Nothing here takes a TPU: several checks may compile at once.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        options: dict[str, object] = {**_OPTIONS.get(self.generation, {})}
        if self.slices > 1:
            options["num_slices"] = self.slices
        if math.prod(self.sides) == 1:  # part of a host
            options["chips_per_host_bounds"] = [1, 1, 1]
        name = f"{self.generation}:{'x'.join(map(str, self.sides))}"
        try:
            return list(topologies.get_topology_desc(name, "tpu", **options).devices)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"no compiler for {name}: {reason}; install libtpu with `pip install 'osteojax[tpu]'`, and name a "
                "slice that there is, as in v5e:2x4"
            ) from error

    @property
    def chips_a_host(self) -> int:
        """That one host feeds: four of a TPU slice, eight GPUs, or all where there are fewer."""
        return min(8 if self.is_gpu else _CHIPS_A_HOST, math.prod(self.sides))
