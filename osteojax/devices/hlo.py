"""What the text of a compiled program (HLO) says of its communication, its memory traffic and its layout."""

import dataclasses
import math
import re
from typing import Literal

# A transpose or copy below this many bytes is not worth a line.
LARGE_BYTES = 2**20

_ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
    # Order and handles: they carry nothing.
    **dict.fromkeys(("token", "opaque"), 0),
}
_EIGHT_BIT_FLOAT = re.compile(r"f8e\d")
_FOUR_BITS = re.compile(r"[su]4|f4e\d")

# `%name = type opcode(operands), attributes`; the type of a tuple is in parentheses.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_ON_CHIP = re.compile(r"\w+\[[\d,]*\]\{[^}]*S\(1\)[^}]*\}")
_NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication of the program.

    Attributes:
        kind: HLO opcode ("all-reduce", "all-gather", ...).
        bytes: of one device's whole array: what it brings to an all-reduce, a reduce-scatter or a permutation, what it
            takes from an all-gather.
        group: how many devices it joins.
        network: "ici", the links between the chips of a slice, or "dcn", the data centre's network between slices.
    """

    kind: str
    bytes: int
    group: int
    network: Literal["ici", "dcn"] = "ici"

    @property
    def sent(self) -> float:
        """Bytes that each device sends on a ring (Thakur et al. 2005): an all-reduce goes round twice, others once."""
        if self.kind == "collective-permute":
            return self.bytes if self.group > 1 else 0.0
        return self.bytes * (self.group - 1) / self.group * (2 if self.kind == "all-reduce" else 1)


def _arrays(type_: str) -> list[tuple[str, int]]:
    """(dtype, number of elements) of each array of an HLO type."""
    return [
        (dtype, math.prod(int(n) for n in shape.split(",") if n)) for dtype, shape, _ in _ARRAY.findall(type_)
    ]


def _item_bytes(dtype: str) -> float:
    if _EIGHT_BIT_FLOAT.match(dtype):
        return 1
    if _FOUR_BITS.match(dtype):
        return 0.5
    return _ITEM_BYTES[dtype]  # an unknown one must not be counted as anything


def _bytes(type_: str) -> int:
    return math.ceil(sum(_item_bytes(dtype) * size for dtype, size in _arrays(type_)))


def hbm_bytes(text: str) -> int:
    """Bytes that the entry computation of a compiled program reads from and writes to main memory.

    Memory space 1 is the vector memory on the chip (`S(1)` in a layout); whatever is not there is in main memory. Each
    operand counts once, although a fusion may read it in several passes.
    """
    entry = re.split(r"^ENTRY ", text, maxsplit=1, flags=re.MULTILINE)[1]
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


def collectives(text: str, slices: int = 1) -> tuple[Collective, ...]:
    """The communications of a compiled program, from its HLO text.

    A program for several slices is that of one slice: what goes between slices it hands to its host, as a `send` that
    names the reduction. One inside a loop counts once; a train step has none in a loop.

    Args:
        text: of the program.
        slices: that it was compiled for.
    """
    everyone = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    devices = int(everyone[1]) if everyone else 1
    found = []
    for _, type_, opcode, rest in _INSTRUCTION.findall(text):
        kind = opcode.removesuffix("-start")
        if opcode == "send" and (transfer := _BETWEEN_SLICES.search(rest)):
            kind = transfer[1].lower().replace("_", "-")
            # (array, context, token)
            found.append(Collective(kind, _bytes(type_.split(", u32[]")[0]), slices, "dcn"))
        elif kind in _COLLECTIVES:
            group = _permuted(rest) if kind == "collective-permute" else _group(rest, devices)
            size = _result_bytes(type_, opcode)
            found.append(Collective(kind, size * group if kind == "reduce-scatter" else size, group))
    return tuple(found)


def _result_bytes(type_: str, opcode: str) -> int:
    """Of what comes out; an asynchronous one's type lists its operands, its results and its contexts (`u32[]`)."""
    if not opcode.endswith("-start") or opcode == "all-reduce-start":
        return _bytes(type_)
    parts = [part for part in _arrays(type_) if part != ("u32", 1)]
    return math.ceil(sum(_item_bytes(dtype) * count for dtype, count in parts[len(parts) // 2 :]))


def _group(attributes: str, devices: int) -> int:
    """Devices in a replica group: of `{{0,1},{2,3}}`, or of `[2,4]<=[8]`, which is groups by size; `{}` is everyone."""
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    return devices


def _permuted(attributes: str) -> int:
    """2 where anything goes to another device, 1 where all stays."""
    pairs = re.findall(r"\{(\d+),(\d+)\}", attributes.partition("source_target_pairs=")[2])
    return 2 if any(source != target for source, target in pairs) else 1


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
