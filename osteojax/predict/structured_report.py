"""A DICOM structured report for each answered DICOM file: it stands in the study of its image, beside it.

A Comprehensive SR of template TID 1500 (PS3.16), by way of highdicom. It refers to the image by its UIDs and carries
its patient's and study's attributes, names and dates too, since that is what makes it belong there. It is marked as
unverified and preliminary.
"""

import dataclasses
import importlib.metadata
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from data_prep.decode import DEFAULT_LIMITS, read_bytes
from data_prep.decode.dicom import looks_like_dicom, read_dataset
from osteojax.calibration.conformal import COVERAGE
from osteojax.errors import UserError
from osteojax.files import disk_errors, write_atomically
from osteojax.predict.answer import Prediction

# What the standard has no code for is in a scheme of our own, whose name must begin with 99 (PS3.16, 8).
SCHEME = "99OSTEOJAX"
USE = Code("research-only", SCHEME, "Research use only, not verified")
NO_CLASS = Code("none", SCHEME, "No class")
_FINDINGS = {
    "healthy": codes.SCT.Normal,
    "osteopenia": Code("312894000", "SCT", "Osteopenia"),
    "osteoporosis": Code("64859006", "SCT", "Osteoporosis"),
}
_SAID = {True: codes.SCT.Yes, False: codes.SCT.No, None: codes.SCT.Unknown}
# The report points at the image by these: without them it would belong to nothing.
_POINTERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# These may be empty in any DICOM file (type 2), and are absent in many.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_SERIES = 1000  # far from those of the images


@dataclasses.dataclass(frozen=True)
class Filed:
    """What came of the report of one file.

    Attributes:
        file: that was answered.
        report: the report's path; None where there is none.
        reason: why there is none; None where the file is no DICOM file, which has no study to stand in.
    """

    file: str
    report: Path | None = None
    reason: str | None = None


def write_reports(
    answers: Sequence[Prediction],
    class_names: Sequence[str],
    networks: Sequence[Mapping[str, Any]],
    folder: Path,
) -> list[Filed]:
    """Writes `NUMBER-NAME.dcm` for each answered DICOM file; a header that will not do is a reason for that file.

    UIDs are a function of the image's, the networks and the answer: the same answer given twice is one report to an
    archive. Its content differs in the time of its making alone.

    Args:
        answers: of files; those without an answer are passed over.
        class_names: in the networks' order.
        networks: what identifies each: `config_hash`, `checkpoint_step` and whatever else is to be recorded.
        folder: made where it is not there.

    Raises:
        UserError: highdicom is not installed, or the folder cannot be written to.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--sr needs the extra (no {error.name}): pip install 'osteojax[dicom-sr]'"
        ) from error
    filed = []
    with disk_errors(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unusual values in the headers of others
        folder.mkdir(parents=True, exist_ok=True)
        for number, answer in enumerate(answers):
            if answer.predicted is None:
                continue
            path = folder / f"{number:05d}-{Path(answer.file).stem}.dcm"
            filed.append(_write(answer, class_names, networks, path))
    return filed


def _write(
    answer: Prediction, class_names: Sequence[str], networks: Sequence[Mapping[str, Any]], path: Path
) -> Filed:
    try:
        data = read_bytes(Path(answer.file), DEFAULT_LIMITS)
        if not looks_like_dicom(data):
            return Filed(answer.file)
        source = _header(read_dataset(data, DEFAULT_LIMITS))
    except UserError as error:
        return Filed(answer.file, reason=str(error).removeprefix(f"{answer.file}: "))
    try:
        report = structured_report(source, answer, class_names, networks)
        stream = io.BytesIO()
        report.save_as(stream, enforce_file_format=True)
    except Exception as error:  # whatever a value in a header of others makes pydicom and highdicom raise
        return Filed(answer.file, reason=f"its DICOM header cannot be carried over ({type(error).__name__})")
    write_atomically(path, stream.getvalue())
    return Filed(answer.file, path)


def _header(dataset: Dataset) -> Dataset:
    """The header of an image, without its picture, complete and in Unicode.

    Raises:
        UserError: it does not say what the image is or where it belongs.
    """
    for keyword in _POINTERS:
        value = str(dataset.get(keyword) or "")
        if not value or not UID(value).is_valid:
            raise UserError(f"its DICOM header has no usable {keyword}, so that no report can refer to it")
    header = Dataset({element.tag: element for element in dataset if element.tag.group <= 0x0020})
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def structured_report(
    source: Dataset, answer: Prediction, class_names: Sequence[str], networks: Sequence[Mapping[str, Any]]
) -> Dataset:
    """The report of one image (`highdicom.sr.ComprehensiveSR`).

    Args:
        source: header of the image.
        answer: what was said of it. Where it is unlike the training images the report states no finding.
        class_names: in the networks' order.
        networks: as in `write_reports`.
    """
    import highdicom as hd

    version = importlib.metadata.version("osteojax")
    said = [json.dumps(dict(network), sort_keys=True) for network in networks]
    identity = [version, *said]
    answered = json.dumps(dataclasses.asdict(answer) | {"file": None}, sort_keys=True)

    def uid(*of: str) -> str:
        return generate_uid(entropy_srcs=[*of, *identity])

    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uid("device"),
            name="osteojax",
            manufacturer_name="osteojax",
            model_name=f"osteojax {version}",
            serial_number=str(networks[0].get("config_hash", "")) or None,
        ),
    )
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=uid("tracking", source.SOPInstanceUID), identifier="osteojax: bone health"
        ),
        finding_type=None if answer.out_of_distribution else finding(str(answer.predicted), class_names),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name="osteojax", version=version, parameters=said, family=codes.DCM.ArtificialIntelligence
        ),
        measurements=_measurements(hd, answer, class_names),
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(name, value) for name, value in _evaluations(answer, class_names)
        ],
        source_images=[hd.sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.cid100.XRUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    number = source.get("InstanceNumber")
    report = hd.sr.ComprehensiveSR(
        evidence=[source],
        content=content,
        series_instance_uid=uid("series", source.SeriesInstanceUID),
        series_number=_SERIES,
        sop_instance_uid=uid("report", source.SOPInstanceUID, answered),
        instance_number=int(number) if number is not None and int(number) > 0 else 1,
        manufacturer="osteojax",
        manufacturer_model_name="osteojax",
        software_versions=version,
        series_description=USE.meaning,
        is_complete=True,
    )
    return report


def finding(name: str, class_names: Sequence[str]) -> Code:
    """A class as SNOMED CT has it; in our own scheme where it is none of the three."""
    return _FINDINGS.get(name) or Code(f"class-{list(class_names).index(name)}", SCHEME, name[:64])


def _measurements(hd: ModuleType, answer: Prediction, class_names: Sequence[str]) -> list[Any]:
    found = [
        hd.sr.Measurement(
            Code(f"p-{number}", SCHEME, f"Probability of {name}"[:64]),
            answer.probabilities[name],
            codes.UCUM.NoUnits,
        )
        for number, name in enumerate(class_names)
    ]
    if answer.conformal_set is not None:
        coverage = Code("coverage", SCHEME, "Coverage asked of the set of possible classes")
        found.append(hd.sr.Measurement(coverage, COVERAGE, codes.UCUM.NoUnits))
    for score, meaning in (("distance", "Distance of the features"), ("energy", "Energy of the logits")):
        value = getattr(answer, score)
        if value is not None:
            name = Code(score, SCHEME, f"{meaning}, over its threshold")
            found.append(hd.sr.Measurement(name, float(value), codes.UCUM.NoUnits))
    return found


def _evaluations(answer: Prediction, class_names: Sequence[str]) -> list[tuple[Code, Code]]:
    strange = Code("unlike-training", SCHEME, "Image is unlike the training images")
    calibrated = Code("calibrated", SCHEME, "Probabilities are calibrated on validation")
    possible = Code("possible-class", SCHEME, "Class of the set of possible classes")
    held: list[Code] = []
    if answer.conformal_set is not None:
        held = [finding(name, class_names) for name in answer.conformal_set] or [NO_CLASS]
    return [
        (Code("use", SCHEME, "Intended use"), USE),
        (calibrated, _SAID[answer.calibrated]),
        (strange, _SAID[answer.out_of_distribution]),
        *((possible, value) for value in held),
        *(
            [(Code("leaky", SCHEME, "Network learned from a leaky split"), codes.SCT.Yes)]
            if answer.leaky
            else []
        ),
    ]
