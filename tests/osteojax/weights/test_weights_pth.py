"""The `.pth` reader: what PyTorch writes is read exactly, everything else is refused without being run."""

import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from osteojax.errors import UserError
from osteojax.weights.formats import pth
from osteojax.weights.formats.pth import read_pth
from tests.osteojax.weights import torch_file
from tests.osteojax.weights.torch_file import Storage, Tensor, write_legacy, write_zip

FILES = Path(__file__).resolve().parents[2] / "goldens" / "pth"
WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "wrapped.pth"])
def test_files_of_pytorch_itself_are_read_exactly(name):
    """Made by torch.save: float types, transposed and sliced views, a parameter, an empty tensor, a wrapper."""
    found = read_pth(FILES / name)
    with np.load(FILES / "values.npz", allow_pickle=False) as values:
        assert set(found) == set(values.files)
        for key in values.files:
            np.testing.assert_array_equal(found[key].read(), values[key], err_msg=key)
    assert found["float"].is_float and found["bfloat16"].is_float and not found["counter"].is_float


def test_a_pickled_module_is_refused():
    with pytest.raises(UserError, match="refused"):
        read_pth(FILES / "module.pth")


class Exploit:
    """Unpickling this in the ordinary way creates the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@WRITERS
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, write):
    trap = tmp_path / "trap"
    honest = torch_file.tensors({"weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match=r"refused.*(called|opcode|has a)"):
        read_pth(write(tmp_path / "evil.pth", {**honest, "evil": Exploit(trap)}))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Exploit(trap)))
    assert trap.exists(), "the trap itself must work, or the test above proves nothing"


PROGRAMS = {
    "os.system": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "builtins.eval through protocol 4": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "an instance (INST)": b"(X\x04\x00\x00\x00truei__builtin__\neval\n.",
    "an object (NEWOBJ)": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a tensor function on no storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))tR.",
    "a persistent id that is no storage": b"\x80\x02X\x04\x00\x00\x00evilQ.",
    "attributes on a global": b"\x80\x02cos\nsystem\n}b.",
    "a tuple as a key": b"\x80\x02})K\x01s.",
    "an empty stack": b"\x80\x020.",
    "no end": b"\x80\x02}",
    "a missing memo": b"\x80\x02h\x07.",
    "no dictionary": b"\x80\x02K\x01.",
    "an empty file": b"",
    "a text number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
@WRITERS
def test_hostile_and_broken_pickles_are_refused(tmp_path, write, program):
    with pytest.raises(UserError, match=r"refused|damaged"):
        read_pth(write(tmp_path / "x.pth", None, program=program))


@WRITERS
def test_a_flood_of_opcodes_ends_early(tmp_path, write, monkeypatch):
    monkeypatch.setattr(pth, "MAX_PICKLE_BYTES", 10_000)
    with pytest.raises(UserError, match="bytes"):
        read_pth(write(tmp_path / "x.pth", None, program=b"\x80\x02" + b"}" * 10_010 + b"."))


@WRITERS
@pytest.mark.parametrize(
    ("shape", "stride", "offset", "claimed"),
    [
        ((1_000_000, 1_000_000), (0, 0), 0, 4),  # four floats that read as 4 TB
        ((4,), (2,), 0, 4),  # beyond the end
        ((4,), (1,), 1, 4),
        ((4,), (-1,), 3, 4),
        ((-4,), (1,), 0, 4),
        ((2, 2), (1,), 0, 4),
        ((2**62, 4), (1, 1), 0, 4),
        ((4,), (1,), 0, 10**15),  # a storage that claims a petabyte
    ],
)
def test_tensors_that_their_bytes_do_not_back_are_refused(tmp_path, write, shape, stride, offset, claimed):
    storage = Storage("0", np.arange(4, dtype=np.float32), claimed=claimed)
    tracemalloc.start()
    with pytest.raises(UserError, match="refused"):
        read_pth(write(tmp_path / "x.pth", {"w": Tensor(storage, shape, stride, offset)}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path):
    state = torch_file.tensors({"w": np.zeros(10_000_000, np.float32)})
    path = write_zip(tmp_path / "bomb.pth", state, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    del state
    tracemalloc.start()
    with pytest.raises(UserError, match="compressed"):
        read_pth(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_other_element_types_and_containers_are_refused(tmp_path):
    storage = Storage("0", np.zeros(4, np.complex64), "ComplexFloatStorage")
    with pytest.raises(UserError, match="ComplexFloatStorage"):
        read_pth(write_zip(tmp_path / "complex.pth", {"w": Tensor(storage, (4,), (1,))}))
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(UserError, match=r"data\.pkl"):
        read_pth(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("404 not found")
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_pth(tmp_path / "text.pth")


@WRITERS
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_an_error_not_a_traceback(tmp_path, write, keep):
    path = write(tmp_path / "x.pth", torch_file.tensors({"w": np.arange(2000, dtype=np.float32)}))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_pth(path)


def test_a_flipped_bit_is_found_by_the_archives_checksum(tmp_path):
    values = np.arange(2000, dtype=np.float32)
    path = write_zip(tmp_path / "x.pth", torch_file.tensors({"w": values}))
    data = bytearray(path.read_bytes())
    data[data.index(values.tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_pth(path)["w"].read()
