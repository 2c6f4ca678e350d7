"""DICOM: stored pixels to presentation values (PS3.3 C.7.6.3 and C.11)."""

import io
import warnings

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from data_prep.decode.radiograph import DecodeError, Limits, Radiograph, check_size, luminance

# Header fields that describe the acquisition. Names, dates and institutions stay out: they identify people.
_DICOM_METADATA = {
    "PatientSex": "sex",
    "BodyPartExamined": "site",
    "ViewPosition": "view",
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "manufacturer_model",
}
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def decode_dicom(data: bytes, limits: Limits) -> Radiograph:
    """Decodes a DICOM file; see `data_prep.decode.decode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about every unusual value; what matters raises below
        dataset = pydicom.dcmread(io.BytesIO(data))
        if "PixelData" not in dataset:
            raise DecodeError("DICOM without pixel data")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise DecodeError(f"multi-frame DICOM ({frames} frames); one radiograph a file is needed")
        check_size(int(dataset.Rows), int(dataset.Columns), limits)
        pixels, full_range, padding = _pixels(dataset)
    if padding.any() and not padding.all():
        # Padding is no measurement: as the darkest real value it neither stretches the range nor stands out.
        pixels = np.where(padding, pixels[~padding].min(), pixels)
    metadata = {name: str(dataset.get(key, "") or "").strip() for key, name in _DICOM_METADATA.items()}
    metadata["age"] = _age_in_years(str(dataset.get("PatientAge", "") or ""))
    return Radiograph(
        pixels.astype(np.float32),
        full_range,
        int(dataset.BitsStored),
        {name: value for name, value in metadata.items() if value},
        str(dataset.get("PatientID", "") or "").strip() or None,
    )


def _pixels(dataset: pydicom.Dataset) -> tuple[np.ndarray, float, np.ndarray]:
    """Presentation values, their full range, and the mask of padding pixels (DICOM PS3.3 C.7.6.3, C.11)."""
    photometric = str(dataset.PhotometricInterpretation)
    stored = dataset.pixel_array
    bits = int(dataset.BitsStored)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.itemsize
    if not photometric.startswith("MONOCHROME"):
        full_range = float(2**bits - 1)
        return luminance(stored[..., :3], full_range), full_range, np.zeros(stored.shape[:2], bool)
    padding = np.zeros(stored.shape, bool)
    if "PixelPaddingValue" in dataset:
        first = int(dataset.PixelPaddingValue)
        last = int(dataset.get("PixelPaddingRangeLimit", first))
        padding = (stored >= min(first, last)) & (stored <= max(first, last))
    rescaled = apply_modality_lut(stored, dataset)
    shown = apply_voi_lut(rescaled, dataset).astype(np.float64)
    low, high = _presentation_range(dataset)
    if photometric == "MONOCHROME1":
        shown = low + high - shown
    return shown, high - low, padding


def _presentation_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Smallest and largest value that `apply_voi_lut(apply_modality_lut(...))` can give."""
    if dataset.get("VOILUTSequence"):
        return 0.0, float(2 ** _lut_bits(dataset.VOILUTSequence[0]) - 1)
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** _lut_bits(dataset.ModalityLUTSequence[0]) - 1)
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _lut_bits(item: pydicom.Dataset) -> int:
    """Bits of an entry of a lookup table: the third value of its descriptor, 8 to 16."""
    return int(item.LUTDescriptor[2])


def _age_in_years(value: str) -> str:
    """DICOM age string (PS3.5: nnnD, nnnW, nnnM, nnnY) in years, or '' where it is none."""
    value = value.strip()
    if len(value) == 4 and value[:3].isdigit() and value[3] in _YEARS:
        return f"{int(value[:3]) * _YEARS[value[3]]:g}"
    return ""
