"""What the text of a compiled program (HLO) says of its communication, its memory traffic and its layout."""

import dataclasses
import math
import re

# A transpose or copy below this many bytes is not worth a line.
LARGE_BYTES = 2**20

_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}

# `%name = type opcode(operands), attributes`; the type of a tuple is in parentheses.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")

_ON_CHIP = re.compile(r"\w+\[[\d,]*\]\{[^}]*S\(1\)[^}]*\}")
_NO_TRAFFIC = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


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
