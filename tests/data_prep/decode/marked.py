"""DICOM files whose every identifying attribute holds a marker, and pictures whose every text does."""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, PngImagePlugin
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

MARKER, NUMBER, DATE, TIME = "LEAKQ", "77317731", "19470329", "173159"
UID = f"1.2.{NUMBER}.5"
SOUGHT = (MARKER, NUMBER, DATE, "1947-03-29", "1947.03.29", TIME)
IDENTIFYING = (Path(__file__).parent.parent / "identifying_attributes.txt").read_text().split()
"""By PS3.15 (2026c), table E.1-1: those that pydicom's dictionary knows."""


def leaks(data: bytes) -> list[str]:
    """Which of what is sought is in these bytes, in any of the encodings that text has."""
    folded = data.lower()
    encodings = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")
    return [text for text in SOUGHT if any(text.lower().encode(e) in folded for e in encodings)]


def value(keyword: str, *, valid: bool):
    """A marker for an attribute, as its VR has values or as it has none."""
    vr = dictionary_VR(keyword)
    if vr == "SQ":
        item = pydicom.Dataset()
        item.PatientName, item.CodeMeaning = f"{MARKER}^Item", f"{MARKER} item"
        item.add_new(0x00091001, "LO", f"{MARKER} private item")
        return [item]
    if vr in ("OB", "UN", "OW"):
        return f"{MARKER} bytes ".encode()
    if vr in ("US", "SS", "UL", "FD", "FL"):
        return 7731
    if vr in ("DS", "IS"):
        return NUMBER
    if vr == "UI":
        return UID if valid else f"{MARKER}.uid"
    if not valid:
        return f"{MARKER} {keyword}"[:60]
    return {
        "DA": DATE, "TM": TIME, "DT": DATE + TIME, "AS": "093Y", "PN": f"{MARKER}^Jane", "CS": f"{MARKER}",
        "UR": f"https://{MARKER}.org",
    }.get(vr, f"{MARKER} {keyword}"[:16])  # fmt: skip


def marked(stored: np.ndarray, *, valid: bool, **elements) -> bytes:
    """A computed radiograph of 12 bits that tells everything; `elements` are set on top."""
    dataset = FileDataset("", {}, preamble=f"{MARKER} preamble".encode().ljust(128, b"\0"))
    meta = dataset.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        meta.MediaStorageSOPInstanceUID = UID
        for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle"):
            setattr(meta, keyword, MARKER)
        meta.PrivateInformationCreatorUID, meta.PrivateInformation = UID, f"{MARKER} meta ".encode()
        for keyword in IDENTIFYING:
            tag = pydicom.datadict.tag_for_keyword(keyword)
            if (
                tag >> 16 > 2
            ):  # lower ones belong to the file meta, which is above, or to the network's commands
                dataset.add_new(tag, dictionary_VR(keyword), value(keyword, valid=valid))
        block = dataset.private_block(0x0019, f"{MARKER} CREATOR", create=True)
        block.add_new(1, "LT", f"{MARKER} private")
        block.add_new(2, "UN", f"{MARKER} private".encode())
        for group in (0x5000, 0x6000, 0x6002):  # curves and overlays
            dataset.add_new((group, 0x0022), "LO", f"{MARKER} description")
            dataset.add_new((group, 0x1500), "LO", f"{MARKER} label")
            dataset.add_new((group, 0x4000), "LT", f"{MARKER} comments")
            dataset.add_new((group, 0x3000), "OW", f"{MARKER} data ".encode())
        dataset.SOPClassUID = ComputedRadiographyImageStorage
        dataset.Rows, dataset.Columns = stored.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
            16,
            12,
            11,
            0,
        )
        dataset.PixelData = stored.astype("<u2").tobytes()
        for keyword, given in elements.items():
            setattr(dataset, keyword, given)
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def broken(whole: bytes, stored: np.ndarray) -> dict[str, bytes]:
    """Files that cannot be used, each for another reason, by name."""
    syntax = ExplicitVRLittleEndian.encode()
    files = {f"cut{share}.dcm": whole[: len(whole) * share // 100] for share in (1, 3, 20, 60, 90, 99)}
    files["syntax.dcm"] = whole.replace(syntax, f"{NUMBER}.{MARKER}".encode().ljust(len(syntax), b"\0"), 1)
    for name in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"):
        files[f"{name}.dcm"] = whole.replace(
            syntax, name.encode().ljust(len(syntax), b"\0")[: len(syntax)], 1
        )
    elements = [
        {"Modality": MARKER}, {"Modality": "CT"}, {"NumberOfFrames": 3}, {"Rows": 0}, {"SamplesPerPixel": 7},
        {"BitsAllocated": 24}, {"BitsStored": 99}, {"PhotometricInterpretation": MARKER, "Rows": 3000},
        {"SOPClassUID": f"1.2.840.10008.5.1.4.1.1.2.{NUMBER}"},
    ]  # fmt: skip
    files |= {f"element{n}.dcm": marked(stored, valid=True, **each) for n, each in enumerate(elements)}
    nothing = pydicom.dcmread(io.BytesIO(whole))
    del nothing.PixelData
    nothing.Modality = MARKER
    stream = io.BytesIO()
    nothing.save_as(stream)
    rng = np.random.default_rng(0)
    for number in range(6):
        data = bytearray(whole)
        data[int(rng.integers(300, len(data) // 2))] ^= int(rng.integers(1, 256))
        data[132 + 12 * number : 134 + 12 * number] = b"\xff\xff"
        files[f"odd{number}.dcm"] = bytes(data)
    return files | {"picture.dcm": stream.getvalue(), "text.dcm": MARKER.encode() * 99}


def odd_presentation(stored: np.ndarray) -> bytes:
    """A file that is used, with notes."""
    return marked(
        stored, valid=False, VOILUTFunction=MARKER, WindowCenter="100", WindowWidth="50", Modality="DX"
    )


def pictures(grey: np.ndarray) -> dict[str, bytes]:
    """PNG, JPEG and TIFF files with EXIF, text chunks, comments and tags; whole and cut."""
    image, files = Image.fromarray(grey), {}
    exif = Image.Exif()
    for tag in (0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298, 0x9286):
        exif[tag] = f"{MARKER} exif"
    text = PngImagePlugin.PngInfo()
    text.add_text(MARKER, f"{MARKER} text")
    text.add_itxt("Author", f"{MARKER} international", zip=True)
    tags = {270: f"{MARKER} description", 271: MARKER, 305: MARKER, 306: DATE, 315: MARKER, 33432: MARKER}
    for name, options in {
        "a.png": {"pnginfo": text, "exif": exif},
        "a.jpg": {"exif": exif, "comment": MARKER.encode(), "quality": 95},
        "a.tif": {"tiffinfo": tags},
    }.items():
        stream = io.BytesIO()
        image.save(stream, {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[2:]], **options)
        files[name] = stream.getvalue()
    return files
