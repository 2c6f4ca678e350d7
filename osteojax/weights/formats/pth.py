"""PyTorch `.pth` files, read without PyTorch and without running anything in them.

A `.pth` file is a pickle, that is, a program. Here a small machine of its own interprets the opcodes that
`torch.save` writes for a state dict; it knows how to describe a tensor and nothing else. It never imports a
name, never calls one, and has no opcode through which an object could act. Both containers are understood:
the ZIP archive (PyTorch 1.6 and later) and the legacy stream of pickles followed by raw storages.
"""

import dataclasses
import functools
import math
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from osteojax.errors import UserError
from osteojax.weights.formats.registry import FORMATS, Format
from osteojax.weights.formats.tensors import StoredTensor, Tensors

MAX_PICKLE_BYTES = 4 * 2**20
"""A state dict's pickle names tensors; a ResNet-152's has 150 KB. Anything near this limit is an attack."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "params", "net", "network", "weights",
    "module",
)  # fmt: skip
"""Keys under which training scripts put the state dict beside their optimizer's state."""

_BYSTANDERS = (
    "argparse.", "collections.", "datetime.", "lightning.", "lightning_fabric.", "numpy.", "omegaconf.",
    "pathlib.", "pytorch_lightning.", "torch.", "types.", "typing.", "_codecs.",
)  # fmt: skip
"""Modules whose objects a trainer (PyTorch Lightning, timm) pickles beside the state dict. They are not made: a
placeholder stands for them, and a state dict that holds one is refused."""
_NEVER = frozenset(
    {"eval", "exec", "compile", "getattr", "setattr", "__import__", "open", "input", "apply", "execfile"}
)

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_MARK = object()


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that the pickle mentions; it is compared, never looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor: a strided window into a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Bystander:
    """Something beside the state dict that is not looked into."""

    name: str


class _RefusedError(Exception):
    """Why a file is not read."""


def read_pth(path: Path) -> Tensors:
    """The tensors of a state dict, by PyTorch's names.

    Raises:
        UserError: the file is damaged, holds anything but a (possibly wrapped) state dict of plain tensors,
            needs code to be run, or describes a tensor that its own bytes do not back.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return _read_zip(path) if zipped else _read_legacy(path)
    except _RefusedError as error:
        raise UserError(f"{path}: refused as PyTorch weights: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error, EOFError) as error:
        raise UserError(
            f"{path}: damaged, or no file of torch.save ({type(error).__name__}: {error})"
        ) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, RecursionError) as error:
        raise UserError(f"{path}: damaged PyTorch archive ({error}); fetch it again") from error


def _read_zip(path: Path) -> Tensors:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise _RefusedError("two members of the archive share a name")
        for info in members.values():
            # torch.save never compresses: a stored member cannot grow beyond the file, so no bomb fits in.
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise _RefusedError(f"{info.filename} is compressed or encrypted; torch.save does neither")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError("there is no data.pkl (a TorchScript file or an ordinary ZIP?)")
        prefix = pickles[0].removesuffix("data.pkl")
        order = members.get(f"{prefix}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise _RefusedError("it was written on a big-endian machine")
        if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise _RefusedError(f"its pickle has {members[pickles[0]].file_size} bytes")
        with archive.open(pickles[0]) as file:
            views = _state_dict(_interpret(file))
        sizes = {
            name.removeprefix(f"{prefix}data/"): info.file_size
            for name, info in members.items()
            if name.startswith(f"{prefix}data/")
        }
    for name, view in views.items():
        _check(name, view, sizes.get(view.storage.key))

    opened = functools.cache(
        lambda: zipfile.ZipFile(path)
    )  # its directory is read once, not for every tensor

    def storage_bytes(key: str) -> bytes:
        return opened().read(f"{prefix}data/{key}")

    return {name: _stored(path, view, storage_bytes) for name, view in views.items()}


def _read_legacy(path: Path) -> Tensors:
    with path.open("rb") as file:
        if _interpret(file) != LEGACY_MAGIC or _interpret(file) != LEGACY_PROTOCOL:
            raise _RefusedError("it has neither torch.save's ZIP container nor its legacy magic number")
        system = _interpret(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise _RefusedError("it was written on a big-endian machine")
        storages: dict[str, _Storage] = {}
        views = _state_dict(_interpret(file, storages))
        keys = _interpret(file)
        end = path.stat().st_size
        offsets: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for key in _expect(keys, list):
            if _expect(key, str) not in storages:  # nested tuples would take exponential time to hash
                raise _RefusedError(f"storage {key!r} belongs to no tensor")
            (count,) = struct.unpack("<q", file.read(8))
            length = count * storages[key].dtype.itemsize
            if count < 0 or file.tell() + length > end:
                raise _RefusedError(f"storage {key!r} of {count} elements does not fit into the file")
            offsets[key], sizes[key] = file.tell(), length
            file.seek(length, 1)
    for name, view in views.items():
        _check(name, view, sizes.get(view.storage.key))

    def storage_bytes(key: str) -> bytes:
        with path.open("rb") as file:
            file.seek(offsets[key])
            return file.read(sizes[key])

    return {name: _stored(path, view, storage_bytes) for name, view in views.items()}


def _state_dict(value: Any) -> dict[str, _View]:
    """The state dict in what a checkpoint pickles: itself, or under one of the usual keys."""
    for wrapper in WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
            break
    if isinstance(value, _Bystander):
        raise _RefusedError(
            f"it holds an object of {value.name} (a whole model?), not a state dict: save that one"
        )
    if not isinstance(value, dict) or not value:
        raise _RefusedError(f"it holds a {type(value).__name__}, not a state dict")
    strangers = [
        str(name) for name, item in value.items() if not (isinstance(name, str) and isinstance(item, _View))
    ]
    if strangers:
        raise _RefusedError(f"these entries are no tensors: {', '.join(strangers)}")
    return value


def _check(name: str, view: _View, stored_bytes: int | None) -> None:
    """That the file's bytes back the tensor that its pickle describes."""
    storage = view.storage
    if stored_bytes is None or stored_bytes != storage.size * storage.dtype.itemsize:
        raise _RefusedError(
            f"the storage of {name} has {stored_bytes} bytes, not {storage.size} x {storage.dtype}"
        )
    numbers = (view.offset, *view.shape, *view.stride)
    if len(view.shape) != len(view.stride) or any(type(n) is not int or n < 0 for n in numbers):
        raise _RefusedError(f"{name} has a broken shape or stride")
    count = math.prod(view.shape)
    last = view.offset + sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))
    # count > size would be an expanded tensor: a few bytes that read as terabytes.
    if count and (last >= storage.size or count > storage.size):
        raise _RefusedError(
            f"{name} of shape {view.shape} reaches beyond its storage of {storage.size} elements"
        )


def _stored(path: Path, view: _View, storage_bytes: Callable[[str], bytes]) -> StoredTensor:
    dtype = view.storage.dtype

    def read() -> np.ndarray:
        try:
            flat = np.frombuffer(storage_bytes(view.storage.key), dtype)
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); fetch it again") from error
        if math.prod(view.shape) == 0:
            return np.zeros(view.shape, np.float32)
        window = np.lib.stride_tricks.as_strided(
            flat[view.offset :], view.shape, [step * dtype.itemsize for step in view.stride], writeable=False
        )
        return window.astype(np.float32)

    return StoredTensor(view.shape, dtype.name, dtype.kind == "f" or dtype == ml_dtypes.bfloat16, read)


def _interpret(file: IO[bytes], storages: dict[str, _Storage] | None = None) -> Any:
    """One pickle's value, made of plain containers, numbers, strings and tensor descriptions.

    Every storage that it mentions is entered into `storages`, by key.
    """
    start = file.tell()
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if file.tell() - start > MAX_PICKLE_BYTES:
            raise _RefusedError(f"its pickle exceeds {MAX_PICKLE_BYTES} bytes")
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(_pop_mark(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(items)))
        elif name == "APPEND":
            item = stack.pop()
            if not isinstance(stack[-1], _Bystander):
                _expect(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = _pop_mark(stack)
            if not isinstance(stack[-1], _Bystander):
                _expect(stack[-1], list).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        elif name == "SETITEMS":
            items = _pop_mark(stack)
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Global(f"{_expect(module, str)}.{_expect(attribute, str)}"))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            if storages is not None:
                storages[storage.key] = storage
            stack.append(storage)
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_build(_expect(function, _Global), _expect(arguments, tuple)))
        elif name == "BUILD":
            stack.pop()  # attributes of a dict (a state dict's `_metadata`), which nothing here needs
            if not isinstance(stack[-1], _Bystander):
                _expect(stack[-1], dict)
        elif name == "NEWOBJ":
            arguments, function = stack.pop(), stack.pop()
            _expect(arguments, tuple)
            stack.append(_bystander(_expect(function, _Global)))
        elif name == "EMPTY_SET":
            stack.append(_Bystander("builtins.set"))
        elif name == "ADDITEMS":
            _pop_mark(stack)
            _expect(stack[-1], _Bystander)
        else:
            raise _RefusedError(f"its pickle has the opcode {name}, which no state dict needs")
    raise _RefusedError("its pickle does not end")


_LITERALS = frozenset(
    {
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _pop_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _RefusedError(
            f"its pickle has a {type(value).__name__} where a state dict has a {kind.__name__}"
        )
    return value


def _set(target: Any, key: Any, value: Any) -> None:
    if isinstance(target, _Bystander):  # a dictionary of a class of its own
        return
    _expect(target, dict)
    # Nested tuples as keys would take exponential time to hash.
    if not isinstance(key, str | int):
        raise _RefusedError(f"its pickle has a {type(key).__name__} as a key")
    target[key] = value


def _storage(identity: Any) -> _Storage:
    """('storage', <type>, key, device, elements), and in legacy files a sixth field for views of storages."""
    fields = _expect(identity, tuple)
    if len(fields) not in (5, 6) or fields[0] != "storage" or (len(fields) == 6 and fields[5] is not None):
        raise _RefusedError("its pickle refers to something other than a storage")
    kind = _expect(fields[1], _Global).name
    dtype = _STORAGES.get(kind.removeprefix("torch."))
    if dtype is None or not kind.startswith("torch."):
        raise _RefusedError(f"it has a storage of type {kind}")
    size = _expect(fields[4], int)
    if size < 0:
        raise _RefusedError("it has a storage of negative size")
    return _Storage(str(_expect(fields[2], str)), dtype, size)


def _build(function: _Global, arguments: tuple) -> Any:
    """What the few functions that a state dict's pickle may name would return."""
    if function.name == "collections.OrderedDict" and not arguments:
        return OrderedDict()
    if function.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, shape, stride = arguments[:4]
        return _View(_expect(storage, _Storage), offset, _expect(shape, tuple), _expect(stride, tuple))
    if function.name == "torch._utils._rebuild_parameter":
        return _expect(arguments[0], _View)
    return _bystander(function)


def _bystander(function: _Global) -> _Bystander:
    module, _, attribute = function.name.rpartition(".")
    if f"{module}.".startswith(_BYSTANDERS) and attribute not in _NEVER:
        return _Bystander(function.name)
    raise _RefusedError(f"it asks for {function.name} to be called")


def _is_pth(head: bytes, path: Path) -> bool:
    """A ZIP archive with a data.pkl, or a stream of pickles; a damaged archive goes by its name."""
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
        except Exception:
            return path.suffix != ".npz"
    return head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


FORMATS.register("pytorch")(Format("PyTorch file", _is_pth, lambda path: (read_pth(path), {})))
