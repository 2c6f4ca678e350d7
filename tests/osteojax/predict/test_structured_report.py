"""Structured reports, read back with pydicom alone and with highdicom."""

import dataclasses
import io
import sys

import numpy as np
import pydicom
import pytest
from dicom_files import careless, content, items, needs_highdicom, radiograph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from osteojax.errors import UserError
from osteojax.predict.answer import Prediction
from osteojax.predict.structured_report import NO_CLASS, SCHEME, USE, structured_report, write_reports

CLASSES = ("healthy", "osteopenia", "osteoporosis")
NETWORK = {"config_hash": "ab" * 32, "checkpoint_step": 42, "views": []}
SNOMED = {"healthy": "17621005", "osteopenia": "312894000", "osteoporosis": "64859006"}
ANSWER = Prediction(
    "x.dcm",
    "osteopenia",
    {"healthy": 0.125, "osteopenia": 0.7, "osteoporosis": 0.175},
    True,
    ("osteopenia", "osteoporosis"),
    False,
    0.5,
    0.25,
)


def answer_of(path, **changes):
    return dataclasses.replace(ANSWER, file=str(path), **changes)


def written(tmp_path, answers, networks=(NETWORK,), out="sr"):
    return write_reports(answers, CLASSES, networks, tmp_path / out)


@pytest.fixture
def one(tmp_path):
    """An image, its answer, and the report as pydicom reads it."""
    image = radiograph(tmp_path / "hip.dcm")
    (filed,) = written(tmp_path, [answer_of(tmp_path / "hip.dcm")])
    assert filed.reason is None and filed.report == tmp_path / "sr" / "00000-hip.dcm"
    return image, pydicom.dcmread(filed.report)


@needs_highdicom
def test_it_says_what_the_answer_says(one):
    image, report = one
    numbers, said, images = content(report)
    assert numbers["Probability of healthy"] == 0.125 and numbers["Probability of osteopenia"] == 0.7
    assert numbers["Probability of osteoporosis"] == 0.175
    assert numbers["Coverage asked of the set of possible classes"] == 0.9
    assert numbers["Distance of the features, over its threshold"] == 0.5
    assert numbers["Energy of the logits, over its threshold"] == 0.25
    assert [c[1:] for c in said["Finding"]] == [(SNOMED["osteopenia"], "SCT")]
    assert [c[1] for c in said["Class of the set of possible classes"]] == [SNOMED[n] for n in CLASSES[1:]]
    assert said["Image is unlike the training images"][0][0] == "No"
    assert said["Probabilities are calibrated on validation"][0][0] == "Yes"
    assert said["Intended use"] == [("Research use only, not verified", "research-only", SCHEME)]
    assert said["Device Observer Name"] == ["osteojax"]
    assert said["Device Observer Serial Number"] == [NETWORK["config_hash"]]
    (parameters,) = said["Algorithm Parameters"]
    assert '"checkpoint_step": 42' in parameters and NETWORK["config_hash"] in parameters
    assert images == [(image.SOPClassUID, image.SOPInstanceUID)]


@needs_highdicom
def test_it_stands_in_its_study_unverified(one):
    image, report = one
    for keyword in (
        *("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyInstanceUID", "StudyDate"),
        *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    ):
        assert str(report[keyword].value) == str(image[keyword].value), keyword
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert report.Modality == "SR" and report.SeriesDescription == USE.meaning and "PixelData" not in report
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == image.StudyInstanceUID
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert (
        report.SeriesInstanceUID != image.SeriesInstanceUID and report.SOPInstanceUID != image.SOPInstanceUID
    )


@needs_highdicom
def test_highdicom_reads_it_as_a_measurement_report(one):
    from highdicom.sr import ComprehensiveSR

    (group,) = ComprehensiveSR.from_dataset(one[1]).content.get_image_measurement_groups()
    assert group.finding_type.value == SNOMED["osteopenia"]
    assert {m.name.meaning: m.value for m in group.get_measurements()}["Probability of osteopenia"] == 0.7
    assert group.source_images[0].referenced_sop_instance_uid == one[0].SOPInstanceUID


@needs_highdicom
def test_an_image_unlike_the_training_images_has_no_finding(tmp_path):
    radiograph(tmp_path / "cat.dcm")
    (filed,) = written(tmp_path, [answer_of(tmp_path / "cat.dcm", out_of_distribution=True, distance=7.0)])
    _, said, _ = content(pydicom.dcmread(filed.report))
    assert "Finding" not in said and said["Image is unlike the training images"][0][0] == "Yes"


@needs_highdicom
def test_what_is_not_known_is_not_stated(tmp_path):
    radiograph(tmp_path / "a.dcm")
    unknown = {"calibrated": False, "out_of_distribution": None, "distance": None, "energy": None}
    paths = [written(tmp_path, [answer_of(tmp_path / "a.dcm", conformal_set=held, **unknown)], out=str(held))[0].report
             for held in (None, ())]  # fmt: skip
    (_, without, _), (_, empty, _) = (content(pydicom.dcmread(path)) for path in paths)
    assert "Class of the set of possible classes" not in without
    assert empty["Class of the set of possible classes"] == [(NO_CLASS.meaning, NO_CLASS.value, SCHEME)]
    assert without["Image is unlike the training images"][0][0] == "Unknown"
    assert without["Probabilities are calibrated on validation"][0][0] == "No"


@needs_highdicom
def test_uids_follow_from_image_networks_and_answer(tmp_path):
    radiograph(tmp_path / "a.dcm")
    radiograph(tmp_path / "b.dcm")
    a = answer_of(tmp_path / "a.dcm")
    cases = {
        "first": ([a], [NETWORK]),
        "again": ([a], [NETWORK]),
        "image": ([answer_of(tmp_path / "b.dcm")], [NETWORK]),
        "step": ([a], [NETWORK | {"checkpoint_step": 43}]),
        "ensemble": ([a], [NETWORK, NETWORK | {"config_hash": "cd"}]),
        "answer": ([dataclasses.replace(a, calibrated=False)], [NETWORK]),
    }
    found = {
        name: pydicom.dcmread(written(tmp_path, *case, out=name)[0].report) for name, case in cases.items()
    }
    assert found["again"].SOPInstanceUID == found["first"].SOPInstanceUID
    assert len({report.SOPInstanceUID for report in found.values()}) == len(cases) - 1
    # One series for the images of a series, by one network.
    assert found["image"].SeriesInstanceUID == found["first"].SeriesInstanceUID
    assert found["step"].SeriesInstanceUID != found["first"].SeriesInstanceUID
    made = ("Creation Time", "Creation Date", "Content Time", "Content Date", "Contribution DateTime")
    again, first = (
        [line for line in str(found[name]).splitlines() if not any(word in line for word in made)]
        for name in ("again", "first")
    )
    assert again == first


@needs_highdicom
@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
@pytest.mark.parametrize("value", [None, "", "no.uid"])
def test_a_header_that_points_nowhere_is_a_reason_and_the_others_are_reported(tmp_path, keyword, value):
    image = radiograph(tmp_path / "broken.dcm")
    with careless():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
        image.save_as(tmp_path / "broken.dcm", enforce_file_format=False)
    radiograph(tmp_path / "good.dcm")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "c.png")
    broken, good, other = written(
        tmp_path, [answer_of(tmp_path / name) for name in ("broken.dcm", "good.dcm", "c.png")]
    )
    assert broken.report is None and f"no usable {keyword}" in broken.reason
    assert good.report.is_file() and good.reason is None
    assert other.report is None and other.reason is None
    assert [path.name for path in (tmp_path / "sr").iterdir()] == ["00001-good.dcm"]


@needs_highdicom
def test_absent_names_are_empty_and_absurd_values_are_no_traceback(tmp_path):
    bare = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
         "StudyTime", "ReferringPhysicianName", "InstanceNumber", "StudyDescription", "SpecificCharacterSet")
    )  # fmt: skip
    radiograph(tmp_path / "bare.dcm", **bare)
    image = radiograph(tmp_path / "absurd.dcm")
    with careless():
        image.StudyDate, image.StudyTime, image.PatientSex = "yesterday", "noon", "?"
        image.save_as(tmp_path / "absurd.dcm")
    bare, absurd = written(tmp_path, [answer_of(tmp_path / name) for name in ("bare.dcm", "absurd.dcm")])
    assert not pydicom.dcmread(bare.report).PatientName and bare.reason is None
    assert (absurd.report is None) == (absurd.reason is not None)


@needs_highdicom
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.lists(st.floats(1e-9, 1), min_size=2, max_size=4),
    names=st.lists(st.text(min_size=1, max_size=80).filter(lambda n: n.strip() and n.isprintable() and "\\" not in n),
                   min_size=4, max_size=4, unique=True),
    held=st.sets(st.integers(0, 3)),
)  # fmt: skip
def test_any_classes_come_back(tmp_path, weights, names, held):
    image = radiograph(tmp_path / "a.dcm")
    names = [name.strip() for name in names[: len(weights)]]
    if len(set(names)) < len(names):
        return
    p = {name: w / sum(weights) for name, w in zip(names, weights, strict=True)}
    kept = tuple(names[i] for i in sorted(held) if i < len(names))
    answer = Prediction("a.dcm", max(p, key=p.get), p, True, kept, None)
    stream = io.BytesIO()
    image.decode()
    image.SpecificCharacterSet = "ISO_IR 192"
    structured_report(image, answer, names, [NETWORK]).save_as(stream, enforce_file_format=True)
    stream.seek(0)
    report = pydicom.dcmread(stream)
    values = [
        item.MeasuredValueSequence[0].FloatingPointValue for item in items(report) if item.ValueType == "NUM"
    ]
    assert values[:-1] == list(p.values())
    (found,) = content(report)[1]["Finding"]
    assert found[1] in (SNOMED.get(answer.predicted), f"class-{names.index(answer.predicted)}")
    assert len(content(report)[1]["Class of the set of possible classes"]) == max(1, len(kept))


@needs_highdicom
def test_real_radiographs(shared, tmp_path):
    files = sorted((shared / "data" / "dicom").glob("*.dcm"))
    found = {filed.file: filed for filed in written(tmp_path, [answer_of(path) for path in files])}
    assert sum(filed.report is not None for filed in found.values()) >= 5
    for path, filed in found.items():
        if filed.report is None:
            assert filed.reason, path
            continue
        source, report = (
            pydicom.dcmread(path, stop_before_pixels=True, force=True),
            pydicom.dcmread(filed.report),
        )
        assert report.StudyInstanceUID == source.StudyInstanceUID
        assert content(report)[2] == [(source.SOPClassUID, source.SOPInstanceUID)]


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"pip install 'osteojax\[dicom-sr\]'"):
        written(tmp_path, [])
