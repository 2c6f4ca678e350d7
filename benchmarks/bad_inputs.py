"""What preparation does with bad inputs: makes them by code, runs `osteojax prep`, and prints a table.

    python benchmarks/bad_inputs.py

Bad files stand in one source, among six good ones; what comes out of the good ones must be the same to the bit as
without them. Each bad table is a source of its own over the good files.
"""

import contextlib
import csv
import dataclasses
import io
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)

CLASSES = ("healthy", "osteopenia", "osteoporosis")
_FLAGS = (
    *("--config.denoise.name=none", "--config.image_size=32", "--config.workers=0"),
    *("--config.audit.near_duplicates=False", "--config.audit.shortcuts=False"),
    "--config.quarantine.max_fraction=1.0",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One bad input: what it is, and what became of it in the words of the run."""

    name: str
    outcome: str


def grey(seed: int, side: int = 48) -> np.ndarray:
    """A picture that no other seed gives, uint8 (side, side)."""
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **settings) -> bytes:
    """The bytes of a file of this kind."""
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **settings)
    return stream.getvalue()


def png(
    width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"", more: bytes = b""
) -> bytes:
    """A PNG file of this header, whatever its data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    text = chunk(b"zTXt", b"note\0\0" + more) if more else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, **changed: int) -> bytes:
    """A TIFF file of one strip; `changed` are tags by name, whatever the pixels."""
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    names = {
        "width": 256,
        "height": 257,
        "bits": 258,
        "compression": 259,
        "strip": 273,
        "bytes": 279,
        "kind": 339,
    }
    tags = {
        256: pixels.shape[1],
        257: pixels.shape[0],
        258: 8 * pixels.itemsize,
        259: 1,
        262: 1,
        273: 0,
        277: 1,
    }
    tags |= {278: pixels.shape[0], 279: pixels.nbytes, 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    tags |= {names[name]: value for name, value in changed.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + pixels.tobytes()


def dicom(pixels: np.ndarray | None = None, **elements) -> bytes:
    """A computed radiograph of 12 bits; `elements` are set on top, None takes one away."""
    stored = grey(7).astype(np.uint16) * 16 if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ComputedRadiographyImageStorage,
        generate_uid(),
    )
    meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.Modality = ComputedRadiographyImageStorage, "CR"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def unknown_syntax() -> bytes:
    """A DICOM file whose transfer syntax nobody knows, of the same length as the one that it was written with."""
    old, new = str(ExplicitVRLittleEndian).encode() + b"\0", b"1.2.840.10008.9.9.99"
    return dicom().replace(old, new[: len(old)].ljust(len(old), b"\0"), 1)


def frames(kind: str) -> bytes:
    """An animation of two pictures."""
    first, second = Image.fromarray(grey(20)), Image.fromarray(grey(21))
    return encoded(first, kind, save_all=True, append_images=[second])


def with_value(value: float) -> np.ndarray:
    """A picture of floats, one of which is this."""
    pixels = grey(22).astype(np.float32)
    pixels[5, 5] = value
    return pixels


_GREY = grey(1)
_PNG, _JPEG, _TIFF = encoded(_GREY, "PNG"), encoded(_GREY, "JPEG"), tiff(_GREY)

# Name of the file -> its bytes.
CONTENTS: Mapping[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "one byte.png": lambda: b"\x89",
    "zeros.png": lambda: bytes(1000),
    "PNG cut in its signature.png": lambda: _PNG[:6],
    "PNG cut in its header.png": lambda: _PNG[:20],
    "PNG cut in its data.png": lambda: _PNG[: len(_PNG) // 2],
    "PNG without its end.png": lambda: _PNG[:-12],
    "PNG with a wrong checksum.png": lambda: _PNG[:60] + bytes([_PNG[60] ^ 255]) + _PNG[61:],
    "JPEG cut in its header.jpg": lambda: _JPEG[:30],
    "JPEG cut in its data.jpg": lambda: _JPEG[: len(_JPEG) * 2 // 3],
    "TIFF cut in its header.tif": lambda: _TIFF[:6],
    "TIFF cut in its tags.tif": lambda: _TIFF[:40],
    "TIFF cut in its pixels.tif": lambda: _TIFF[:-500],
    "DICOM cut in its header.dcm": lambda: dicom()[:200],
    "DICOM cut in its pixels.dcm": lambda: dicom()[:-500],
    "DICOM of a preamble alone.dcm": lambda: bytes(128) + b"DICM",
    "JPEG named.png": lambda: encoded(grey(30), "JPEG"),
    "PNG named.dcm": lambda: encoded(grey(31), "PNG"),
    "PNG of 60,000 x 60,000.png": lambda: png(60_000, 60_000, data=zlib.compress(bytes(1000))),
    "PNG of 0 x 0.png": lambda: png(0, 0, data=zlib.compress(b"")),
    "PNG with 200 MB of text.png": lambda: png(
        48, 48, data=zlib.compress(bytes(48 * 49)), more=zlib.compress(bytes(200_000_000))
    ),
    "PNG of an unknown colour type.png": lambda: png(48, 48, colour=5, data=zlib.compress(bytes(48 * 49))),
    "TIFF of 4 billion pixels.tif": lambda: tiff(_GREY, width=65_535, height=65_535),
    "TIFF whose strip lies outside.tif": lambda: tiff(_GREY, strip=1_000_000),
    "TIFF of an unknown compression.tif": lambda: tiff(_GREY, compression=54_321),
    "DICOM of 65,535 x 65,535.dcm": lambda: dicom(Rows=65_535, Columns=65_535),
    "DICOM of 0 rows.dcm": lambda: dicom(Rows=0),
    "DICOM without rows.dcm": lambda: dicom(Rows=None),
    "TIFF with a NaN.tif": lambda: tiff(with_value(np.nan)),
    "TIFF with an infinity.tif": lambda: tiff(with_value(np.inf)),
    "constant.png": lambda: encoded(np.full((48, 48), 9, np.uint8), "PNG"),
    "1 x 1.png": lambda: encoded(np.ones((1, 1), np.uint8), "PNG"),
    "1 x 500.png": lambda: encoded(np.arange(500, dtype=np.uint8)[None], "PNG"),
    "animated.gif": lambda: frames("GIF"),
    "animated GIF named.png": lambda: frames("GIF"),
    "animated PNG.png": lambda: frames("PNG"),
    "TIFF of two pages.tif": lambda: frames("TIFF"),
    "DICOM of three frames.dcm": lambda: dicom(
        np.stack([grey(n).astype(np.uint16) for n in (8, 9, 10)]), NumberOfFrames=3
    ),
    "palette.png": lambda: encoded(Image.fromarray(grey(32)).convert("P"), "PNG"),
    "grey and alpha.png": lambda: encoded(
        Image.merge("LA", [Image.fromarray(grey(n)) for n in (33, 34)]), "PNG"
    ),
    "transparent throughout.png": lambda: encoded(
        Image.merge("LA", [Image.fromarray(grey(35)), Image.new("L", (48, 48))]), "PNG"
    ),
    "CMYK.jpg": lambda: encoded(
        Image.merge("CMYK", [Image.fromarray(grey(n)) for n in (36, 37, 38, 39)]), "JPEG"
    ),
    "16 bits.png": lambda: encoded(Image.fromarray(grey(40).astype(np.uint16) * 257), "PNG"),
    "DICOM of negative slope.dcm": lambda: dicom(
        grey(41).astype(np.uint16) * 16, RescaleSlope="-1", RescaleIntercept="4095"
    ),
    "DICOM with a window of width 0.dcm": lambda: dicom(
        grey(42).astype(np.uint16) * 16, WindowCenter="2000", WindowWidth="0"
    ),
    "DICOM of slope 0.dcm": lambda: dicom(
        grey(51).astype(np.uint16) * 16, RescaleSlope="0", RescaleIntercept="0"
    ),
    "DICOM without pixels.dcm": lambda: dicom(PixelData=None),
    "DICOM of an unknown transfer syntax.dcm": unknown_syntax,
    "DICOM whose JPEG has no frame.dcm": lambda: dicom(
        PixelData=b"\xfe\xff\x00\xe0" + bytes(4), syntax=JPEGBaseline8Bit
    ),
    "DICOM that stores 17 bits in 16.dcm": lambda: dicom(grey(52).astype(np.uint16) * 16, BitsStored=17),
    "DICOM of a CT.dcm": lambda: dicom(Modality="CT"),
    "PDF.png": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "HTML.png": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "SVG.png": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "drawing.svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "ZIP.png": lambda: b"PK\x03\x04" + bytes(100),
    "pickle.png": lambda: b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
    "PNG that is a ZIP as well.png": lambda: encoded(grey(43), "PNG") + b"PK\x05\x06" + bytes(18),
    "EPS.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\nshowpage\n",
    ".hidden.png": lambda: encoded(grey(44), "PNG"),
    "Thumbs.db": lambda: bytes(100),
    "line\nbreak.png": lambda: encoded(grey(45), "PNG"),
    "bell\a and escape\x1b[31m.png": lambda: encoded(grey(46), "PNG"),
    "right to left \u202egnp.exe.png": lambda: encoded(grey(47), "PNG"),
    "n" * 240 + ".png": lambda: encoded(grey(48), "PNG"),
    "=HYPERLINK(1).png": lambda: encoded(grey(49), "PNG"),
    os.fsdecode(b"not UTF-8 \xff.png"): lambda: encoded(grey(50), "PNG"),
}


# Name of the file -> what makes it, where it is not a matter of bytes.
PLACES: Mapping[str, Callable[[Path], object]] = {
    "a directory named.png": lambda path: path.mkdir(),
    "a pipe.png": lambda path: os.mkfifo(path),
    "link out of the source.png": lambda path: path.symlink_to("/etc/passwd"),
    "link to a device.png": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing.png": lambda path: path.symlink_to("nothing.png"),
    "link to itself.png": lambda path: path.symlink_to(path.name),
    "link to its own folder": lambda path: path.symlink_to(".", target_is_directory=True),
}


def _table(rows: Sequence[str], head: str = "file,label") -> bytes:
    return "\n".join([head, *rows, ""]).encode()


def _rows(files: Sequence[str], more: str = "") -> list[str]:
    return [f"{name},{name.split('/')[0]}{more}" for name in files]


Files = Sequence[str]
# What is wrong with a table of the good files -> its bytes.
TABLES: Mapping[str, Callable[[Files], bytes]] = {
    "empty": lambda files: b"",
    "a heading alone": lambda files: _table([]),
    "no heading": lambda files: "\n".join(_rows(files)).encode(),
    "no column of files": lambda files: _table(_rows(files), "a,label"),
    "no column of labels": lambda files: _table(_rows(files), "file,a"),
    "two columns of labels": lambda files: _table(_rows(files, ",healthy"), "file,label,label"),
    "two columns that could be the label": lambda files: _table(
        _rows(files, ",healthy"), "file,class,diagnosis"
    ),
    "each row twice": lambda files: _table(_rows(files) * 2),
    "a file under two labels": lambda files: _table([*_rows(files), f"{files[0]},osteoporosis"]),
    "an unknown class": lambda files: _table([*_rows(files[1:]), f"{files[0]},broken"]),
    "an empty label": lambda files: _table([*_rows(files[1:]), f"{files[0]},"]),
    "an empty file name": lambda files: _table([*_rows(files), ",healthy"]),
    "an absent file": lambda files: _table([*_rows(files), "healthy/absent.png,healthy"]),
    "an absolute path": lambda files: _table([*_rows(files), "/etc/passwd,healthy"]),
    "a path that leaves the source": lambda files: _table([*_rows(files), "../../etc/passwd,healthy"]),
    "a path through a folder and back": lambda files: _table(
        [*_rows(files[1:]), f"healthy/../{files[0]},healthy"]
    ),
    "a byte order mark": lambda files: b"\xef\xbb\xbf" + _table(_rows(files)),
    "UTF-16": lambda files: _table(_rows(files)).decode().encode("utf-16"),
    "Latin-1": lambda files: _table(_rows(files, ",M\xfcller"), "file,label,name").decode().encode("latin-1"),
    "semicolons": lambda files: _table(_rows(files)).replace(b",", b";"),
    "NUL bytes": lambda files: _table(_rows(files)).replace(b"\n", b"\0\n"),
    "a line break in quotes": lambda files: _table(_rows(files, ',"a\nb"'), "file,label,note"),
    "a quote that is never closed": lambda files: _table([*_rows(files), '"healthy/0.png,healthy']),
    "too many cells in a row": lambda files: _table([*_rows(files[1:]), f"{files[0]},healthy,1,2,3"]),
    "too few cells in a row": lambda files: _table([*_rows(files[1:]), files[0]]),
    "ages with a unit": lambda files: _table(_rows(files, ",45 y"), "file,label,age"),
    "some patients missing": lambda files: _table(
        [f"{row},{'' if n % 2 else n}" for n, row in enumerate(_rows(files))], "file,label,patient_id"
    ),
    "an unknown split": lambda files: _table(_rows(files, ",later"), "file,label,split"),
    "a patient in two splits": lambda files: _table(
        [f"{row},p1,{'train' if n % 2 else 'test'}" for n, row in enumerate(_rows(files))],
        "file,label,patient_id,split",
    ),
    "a cell of 200,000 characters": lambda files: _table(
        _rows(files, "," + "x" * 200_000), "file,label,note"
    ),
    "a picture instead of a table": lambda files: _PNG,
}


def good_files(source: Path) -> list[str]:
    """Writes six good pictures, two of each class; their paths below `source`."""
    names = [f"{name}/{n}.png" for name in CLASSES for n in range(2)]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(encoded(grey(100 + number), "PNG"))
    return names


def prep(source: Path, out: Path) -> tuple[int, str]:
    """Exit status and log of `osteojax prep`, in this process."""
    from osteojax.cli.main import run

    log = io.StringIO()
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        status = run(["prep", f"--source={source}", f"--out={out}", *_FLAGS])
    return status, log.getvalue()


def images(out: Path) -> dict[str, bytes]:
    """File of the source -> what was made of it, of a finished data set."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(out))
    found = {
        example["id"].decode(): example["image"].tobytes()
        for split in builder.info.splits
        for example in builder.as_data_source(split)
    }
    return {row["file"]: found[row["id"]] for row in _csv(out / "manifest.csv")}


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def bad_files(folder: Path) -> tuple[list[Case], bool]:
    """What becomes of each bad file, and whether the good ones come out the same to the bit as without them."""
    alone, among = folder / "alone", folder / "among"
    good = good_files(alone)
    good_files(among)
    for name, content in CONTENTS.items():
        (among / "healthy" / name).write_bytes(content())
    for name, make in PLACES.items():
        make(among / "healthy" / name)
    outs = [folder / "out-alone", folder / "out-among"]
    for source, out in zip((alone, among), outs, strict=True):
        status, log = prep(source, out)
        if status:
            raise SystemExit(f"preparation of {source} ended with {status}: {log}")
    before, after = map(images, outs)
    reasons = {row["file"].lstrip("'"): row["reason"] for row in _csv(outs[1] / "quarantine.csv")}
    notes = {row["file"]: row["notes"] for row in _csv(outs[1] / "manifest.csv")}

    def outcome(name: str) -> str:
        file = f"healthy/{name}"
        if file in after:
            return "read" + (f", with a note: {notes[file]}" if notes[file] else "")
        told = [reason for known, reason in reasons.items() if plain(known) == plain(file)]
        return f"quarantined: {told[0]}" if told else "passed over"

    return [Case(name, outcome(name)) for name in (*CONTENTS, *PLACES)], all(
        before[name] == after.get(name) for name in good
    )


def bad_tables(folder: Path) -> list[Case]:
    """What becomes of each bad table."""
    source = folder / "tables"
    good = good_files(source)
    cases = []
    for number, (name, content) in enumerate(TABLES.items()):
        (source / "labels.csv").write_bytes(content(good))
        out = folder / f"out-{number}"
        status, log = prep(source, out)
        if status:
            told = "refused: " + (log.strip().splitlines() or ["without a word"])[-1]
        else:
            rows = _csv(out / "quarantine.csv")
            told = f"{len(_csv(out / 'manifest.csv'))} of {len(good)} read"
            told += "".join(f"; {row['file'] or '(no name)'}: {row['reason']}" for row in rows[:2])
        cases.append(Case(f"labels.csv: {name}", told.replace(str(source), "SOURCE")))
    return cases


def plain(text: str) -> str:
    """Without what a table of Markdown or a terminal cannot show, and not longer than 160 characters."""
    shown = re.sub(
        r"[^ -~]", lambda found: ascii(found[0])[1:-1], text.encode(errors="backslashreplace").decode()
    )
    shown = shown.replace("\\udcff", "\\xff").replace("|", "\\|")
    return shown if len(shown) <= 160 else shown[:157] + "..."


def main() -> None:
    """Entry point."""
    with tempfile.TemporaryDirectory() as name:
        files, same = bad_files(Path(name))
        cases = [*files, *bad_tables(Path(name))]
    print("| input | what happened |\n|---|---|")
    for case in cases:
        print(f"| {plain(case.name)} | {plain(case.outcome)} |")
    print(
        f"\n{len(cases)} bad inputs; the good files came out {'the same to the bit' if same else 'DIFFERENT'}."
    )


if __name__ == "__main__":
    main()
