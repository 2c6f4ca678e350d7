"""Writes `.pth` files without PyTorch, honest and hostile ones, to test the reader."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _stub_modules():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError("the reader called a function that a pickle named")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    for name in ("FloatStorage", "LongStorage", "ComplexFloatStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    return {"torch": torch, "torch._utils": utils}


class Storage:
    def __init__(self, key, data, kind="FloatStorage", claimed=None):
        self.key, self.data, self.kind = key, data, kind
        self.claimed = len(data) if claimed is None else claimed


class Tensor:
    """A tensor as PyTorch pickles it: a call of `_rebuild_tensor_v2` on a persistent storage."""

    def __init__(self, storage, shape, stride, offset=0):
        self.arguments = (storage, offset, tuple(shape), tuple(stride), False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


def tensors(arrays):
    """An OrderedDict of plain tensors, a storage each."""
    state = OrderedDict()
    for index, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array)
        kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        stride = [s // array.itemsize for s in array.strides]
        state[name] = Tensor(Storage(str(index), array.reshape(-1), kind), array.shape, stride)
    return state


def pickled(value, storages=None):
    """`value` pickled with protocol 2 and PyTorch's persistent ids; storages met are added to `storages`."""
    stubs = _stub_modules()
    saved = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            if storages is not None:
                storages[item.key] = item
            return ("storage", getattr(stubs["torch"], item.kind), item.key, "cpu", item.claimed)

    try:
        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump(value)
        return buffer.getvalue()
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_zip(path, value, compression=zipfile.ZIP_STORED, program=None):
    """The container of PyTorch 1.6 and later; `program` replaces the pickle."""
    storages = {}
    data = pickled(value, storages) if program is None else program
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.data.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path, value, program=None):
    """The container before PyTorch 1.6: pickles, then raw storages."""
    storages = {}
    body = pickled(value, storages) if program is None else program
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    with path.open("wb") as file:
        for part in (LEGACY_MAGIC, 1001, system):
            file.write(pickle.dumps(part, 2))
        file.write(body)
        file.write(pickle.dumps(list(storages), 2))
        for storage in storages.values():
            file.write(struct.pack("<q", storage.claimed) + storage.data.tobytes())
    return path
