"""DICOM files for the tests of prediction, and what a structured report says, read with pydicom alone."""

import contextlib
import importlib.util
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)

needs_highdicom = pytest.mark.skipif(
    not importlib.util.find_spec("highdicom"),
    reason="highdicom is not installed: pip install 'osteojax[dicom-sr]'",
)


def radiograph(path, pixels=PIXELS, **attributes):
    """A small radiograph of a named patient; an attribute that is None is absent."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = (
        generate_uid(entropy_srcs=[k]) for k in ("study", "series")
    )
    image.PatientName, image.PatientID, image.PatientSex, image.PatientBirthDate = (
        "Müller^Ä",
        "p7",
        "F",
        "19500102",
    )
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260101", "101500", "s1", "a1"
    image.ReferringPhysicianName, image.InstanceNumber, image.Modality = "Doctor^A", 3, "DX"
    image.StudyDescription = "Hüfte"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    image.save_as(path, enforce_file_format=True)
    return image


@contextlib.contextmanager
def careless():
    """Lets a file be written that is not as the standard has it."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def items(dataset):
    """Every content item below a dataset."""
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from items(item)


def code(item):
    return item.CodeMeaning, item.CodeValue, item.CodingSchemeDesignator


def content(report):
    """What a report says: meaning -> numbers, meaning -> codes, and the images it refers to."""
    numbers, said, images = {}, {}, []
    for item in items(report):
        if item.ValueType == "IMAGE":
            (reference,) = item.ReferencedSOPSequence
            images.append((reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID))
            continue
        meaning = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "NUM":
            (measured,) = item.MeasuredValueSequence
            numbers[meaning] = measured.FloatingPointValue
            assert float(measured.NumericValue) == pytest.approx(measured.FloatingPointValue, abs=1e-9)
            assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "1"
            assert measured.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
        elif item.ValueType == "CODE":
            said.setdefault(meaning, []).append(code(item.ConceptCodeSequence[0]))
        elif item.ValueType in ("TEXT", "UIDREF"):
            said.setdefault(meaning, []).append(item.get("TextValue") or item.get("UID"))
    return numbers, said, images
