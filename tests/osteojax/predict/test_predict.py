"""Prediction: the bits of evaluation, what is broken, what is strange, several runs, and tables."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pydicom
import pytest
import small
from dicom_files import content, needs_highdicom, radiograph
from PIL import Image
from scipy.ndimage import zoom
from scipy.special import softmax

from data_prep.prepare import prepare
from data_prep.preprocess import preprocess_file
from osteojax import config as configs
from osteojax.calibration.temperature import fit_temperature
from osteojax.cli.main import run as command
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.export.export import export_run
from osteojax.export.read import open_exported
from osteojax.predict.files import Images, find_files
from osteojax.predict.predict import Predictor
from osteojax.run.fitted import fitted
from osteojax.run.open import open_run
from osteojax.train.loop import train


def picture(seed, period):
    rng = np.random.default_rng(seed)
    stripes = 128 + 70 * np.sin(2 * np.pi * (np.arange(80) + rng.uniform(0, period)) / period)
    shade = zoom(rng.normal(0, 25, (5, 5)), (72 / 5, 80 / 5), order=1)
    return np.clip(stripes[None] + shade + rng.normal(0, 12, (72, 80)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Stripes of three spacings as PNG files, one a patient."""
    folder = tmp_path_factory.mktemp("source")
    for c, name in enumerate(small.CLASSES):
        (folder / name).mkdir()
        for i in range(40):
            Image.fromarray(picture(100 * c + i, 8 + 9 * c)).save(folder / name / f"{name}{i}.png")
    return folder


@pytest.fixture(scope="module")
def workdir(source, tmp_path_factory):
    """A run on those files, prepared by the real preparation."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    config = configs.load("configs/prep/prep.py")
    config.image_size = small.SIZE
    config.denoise.backend = "none"
    config.audit.update(near_duplicates=False, shortcuts=False)  # stripes are near copies of each other
    config.split.update(train=0.5, val=0.25, test=0.25)
    prepare(source, out, config)
    experiment = small.quick_config(out)
    experiment.epochs = 6.0
    folder = tmp_path_factory.mktemp("run")
    train(experiment, folder)
    return folder


@pytest.fixture(scope="module")
def predictor(workdir):
    return Predictor([open_run(workdir)])


def test_the_same_files_give_the_bits_that_evaluation_gave(workdir, source, predictor):
    metrics = evaluate_run(workdir)
    run = open_run(workdir)
    split = run.dataset().source("test")
    logits = run.logits(split)
    files = [source / example["file"].decode() for example in split]
    answers = predictor.predict(files)
    p = fitted(run).probabilities(logits)
    assert len(files) == metrics["n"] > 10
    for answer, row in zip(answers, p, strict=True):
        assert list(answer.probabilities.values()) == row.tolist()  # to the bit
    # In another order, and beside another number of files, too.
    again = predictor.predict(files[:5][::-1])[::-1]
    assert [a.probabilities for a in again] == [a.probabilities for a in answers[:5]]


def test_probabilities_are_calibrated_with_what_was_fitted_on_validation(workdir, predictor, source):
    run = open_run(workdir)
    found = fitted(run)
    assert predictor.calibrated and found.temperature > 0
    file = next((source / "healthy").iterdir())
    (answer,) = predictor.predict([file])
    assert answer.calibrated and sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.conformal_set is not None and set(answer.conformal_set) <= set(small.CLASSES)


def test_without_the_dataset_what_was_fitted_is_read_and_without_either_it_is_said(workdir, source, tmp_path):
    shutil.copytree(workdir, tmp_path / "moved")
    run = dataclasses.replace(open_run(tmp_path / "moved"))
    run.config.data.dir = str(tmp_path / "nowhere")
    file = next((source / "osteopenia").iterdir())
    (with_file,) = Predictor([run]).predict([file])
    assert with_file.calibrated
    shutil.rmtree(tmp_path / "moved" / "fitted")
    run = dataclasses.replace(open_run(tmp_path / "moved"))
    run.config.data.dir = str(tmp_path / "nowhere")
    (without,) = Predictor([run]).predict([file])
    assert not without.calibrated
    assert without.conformal_set is None and without.out_of_distribution is None
    assert not (tmp_path / "moved" / "fitted").exists()


def test_a_run_that_may_only_be_read_is_answered_all_the_same(workdir, source, tmp_path, monkeypatch, caplog):
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fitted", ignore_errors=True)

    def refuse(path, run, result):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("osteojax.run.fitted._save", refuse)
    file = next((source / "osteopenia").iterdir())
    (answer,) = Predictor([open_run(tmp_path / "run")]).predict([file])
    assert answer.calibrated and "Permission denied" in caplog.text
    assert not (tmp_path / "run" / "fitted").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "foreign", "pickle"])
def test_what_was_fitted_and_is_damaged_is_fitted_anew(workdir, tmp_path, damage, caplog):
    shutil.copytree(workdir, tmp_path / "run")
    run = open_run(tmp_path / "run")
    before = fitted(run)
    (path,) = (tmp_path / "run" / "fitted").iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "foreign":
        other = dataclasses.replace(run, record={**run.record, "config_hash": "another"})
        assert fitted(other).temperature == pytest.approx(before.temperature)
        return
    else:
        np.savez(path, identity=np.array([{"a": 1}], dtype=object))
    again = fitted(run)
    assert again.temperature == before.temperature
    np.testing.assert_array_equal(again.novelty.axes, before.novelty.axes)
    assert "is damaged" in caplog.text


def test_broken_files_have_a_reason_and_the_good_are_answered(workdir, source, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(next((source / "healthy").iterdir()), folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "c.txt").write_text("no picture")
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(folder / "d.png")
    shutil.copy(next((source / "osteoporosis").iterdir()), folder / "e.png")
    (folder / ".hidden").write_text("not looked at")
    status = command(["predict", f"--workdir={workdir}", str(folder), f"--out={tmp_path}/p.csv"])
    assert status == 1
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].rsplit("/", 1)[1] for row in rows] == ["a.png", "b.png", "c.txt", "d.png", "e.png"]
    assert [bool(row["predicted"]) for row in rows] == [True, False, False, False, True]
    assert "blank" in rows[3]["reason"] and rows[1]["reason"] and rows[1]["p_healthy"] == ""
    told = capsys.readouterr().out
    assert "2 answered" in told and "3 not read" in told


def test_dicom_goes_through_the_same_way(predictor, source, tmp_path):
    pixels = picture(1, 17)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    radiograph(tmp_path / "a.dcm", pixels)
    one, other = predictor.predict([tmp_path / "a.dcm", tmp_path / "a.png"])
    assert one.probabilities == other.probabilities


@needs_highdicom
def test_structured_reports_of_dicom_files_and_a_line_for_the_rest(workdir, tmp_path, capsys):
    pixels = picture(1, 17)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    radiograph(tmp_path / "b.dcm", pixels)
    call = ["predict", f"--workdir={workdir}", f"--sr={tmp_path}/sr", f"--out={tmp_path}/p.json"]
    assert command([*call, f"{tmp_path}/a.png", f"{tmp_path}/b.dcm"]) == 0
    assert f"1 structured reports in {tmp_path}/sr; 1 files are no DICOM files" in capsys.readouterr().out
    report = pydicom.dcmread(tmp_path / "sr" / "00001-b.dcm")
    numbers, said, _ = content(report)
    answer = json.loads((tmp_path / "p.json").read_text())["predictions"][1]
    for name, p in answer["probabilities"].items():
        assert numbers[f"Probability of {name}"] == p
    run = open_run(workdir)
    (parameters,) = said["Algorithm Parameters"]
    assert json.loads(parameters)["config_hash"] == run.record["config_hash"]
    assert json.loads(parameters)["checkpoint_step"] == run.step
    radiograph(tmp_path / "c.dcm", pixels, StudyInstanceUID=None)
    assert command([*call, f"{tmp_path}/c.dcm", f"{tmp_path}/b.dcm"]) == 1
    said = capsys.readouterr().out
    assert (
        f"no structured report of {tmp_path}/c.dcm: its DICOM header has no usable StudyInstanceUID" in said
    )
    assert "2 answered" in said and "1 structured reports" in said


def test_strange_pictures_are_flagged_and_those_of_the_set_are_not(workdir, source, predictor, tmp_path):
    run = open_run(workdir)
    files = [source / example["file"].decode() for example in run.dataset().source("test")]
    flagged = [answer.out_of_distribution for answer in predictor.predict(files)]
    assert np.mean(flagged) < 0.35
    rng = np.random.default_rng(0)
    strange = {
        "noise": rng.integers(0, 256, (80, 80)),
        "upright stripes": picture(0, 17).T,
    }
    for name, pixels in strange.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    answers = predictor.predict([tmp_path])
    assert [a.file.rsplit("/", 1)[1] for a in answers if not a.out_of_distribution] == []


@pytest.mark.slow
def test_an_ensemble_and_mirror_images_answer_with_their_mean_and_its_own_temperature(workdir, source):
    file = next((source / "healthy").iterdir())
    runs = [open_run(workdir, step) for step in ("best", "last")]
    image = preprocess_file(file, Predictor(runs).spec)[None]
    validation = runs[0].dataset().source("val")
    for members, tta in ((runs, []), (runs[:1], ["mirror"]), (runs, ["mirror"])):
        views = [np.stack([example["image"] for example in validation])]
        asked = [image]
        if tta:
            views, asked = [*views, views[0][:, :, ::-1]], [image, image[:, :, ::-1]]

        def mean(images, members=members):
            said = [
                softmax(run.logits(Images(each)).astype(np.float64), -1) for run in members for each in images
            ]
            return np.log(np.mean(said, axis=0))

        temperature = fit_temperature(mean(views), fitted(runs[0]).labels)
        predictor = Predictor(members, tta=tta)
        (answer,) = predictor.predict([file])
        expected = softmax(mean(asked) / temperature, -1)[0]
        assert list(answer.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert predictor.without_sets is None and answer.calibrated and answer.conformal_set is not None
        assert answer.out_of_distribution is not None


def test_folds_have_no_sets_and_each_its_own_temperature(workdir, source, predictor, capsys):
    run = open_run(workdir)
    other = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
    other.config.fold = 1
    folds = Predictor([run, other])
    assert "different folds" in folds.without_sets and folds.calibrated
    file = next((source / "healthy").iterdir())
    (answer,), (alone,) = folds.predict([file]), predictor.predict([file])
    assert answer.conformal_set is None
    assert list(answer.probabilities.values()) == pytest.approx(list(alone.probabilities.values()))


def test_mirror_images_without_the_dataset_have_no_sets(workdir, source, tmp_path):
    shutil.copytree(workdir, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "fitted", ignore_errors=True)
    run = open_run(tmp_path / "moved")
    assert fitted(run).mirrored is None
    run.config.data.dir = str(tmp_path / "nowhere")
    predictor = Predictor([run], tta=["mirror"])
    assert "not at hand to see what it says of mirrored images" in predictor.without_sets
    (answer,) = predictor.predict([next((source / "healthy").iterdir())])
    assert answer.calibrated and answer.conformal_set is None
    again = open_run(tmp_path / "moved")
    known = fitted(again, mirrored=True)
    validation = again.dataset().source("val")
    turned = Images(np.stack([example["image"] for example in validation])[:, :, ::-1])
    np.testing.assert_array_equal(known.mirrored, again.logits(turned))
    np.testing.assert_array_equal(fitted(again, mirrored=True).mirrored, known.mirrored)  # from the file


def test_runs_on_other_images_are_no_ensemble(workdir):
    run = open_run(workdir)
    other = dataclasses.replace(run, record={**run.record, "preprocessing": {"image_size": 64}})
    with pytest.raises(UserError, match="other classes or another preprocessing"):
        Predictor([run, other])


def test_json_and_names_that_a_spreadsheet_would_run(workdir, source, tmp_path):
    shutil.copy(next((source / "healthy").iterdir()), tmp_path / "=1+1.png")
    for out in ("p.csv", "p.json"):
        call = ["predict", f"--workdir={workdir}", "=1+1.png", f"--out={out}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert command(call) == 0
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("'=1+1.png,")
    (found,) = json.loads((tmp_path / "p.json").read_text())["predictions"]
    assert found["file"] == "=1+1.png" and found["reason"] is None


def test_places_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_files([tmp_path / "nothing"])
    with pytest.raises(UserError, match="no files in"):
        find_files([tmp_path])
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert len(find_files([tmp_path, tmp_path / "a"])) == 1


def test_uncalibrated_probabilities_are_the_softmax(workdir, source):
    run = open_run(workdir)
    run.config.eval.split = "none"
    shutil.rmtree(workdir / "fitted", ignore_errors=True)
    file = next((source / "healthy").iterdir())
    predictor = Predictor([run])
    (answer,) = predictor.predict([file])
    assert not answer.calibrated
    logits = run.logits(Images(preprocess_file(file, predictor.spec)[None])).astype(np.float64)
    assert list(answer.probabilities.values()) == pytest.approx(softmax(logits, -1)[0].tolist())


@pytest.mark.slow
def test_an_exported_network_answers_as_the_run_does(workdir, source, tmp_path):
    export_run(workdir, tmp_path / "model")
    file, other = (next((source / name).iterdir()) for name in ("healthy", "osteoporosis"))
    known = fitted(open_run(workdir))
    assert (
        command(["predict", f"--model={tmp_path}/model", str(file), str(other), f"--out={tmp_path}/p.json"])
        == 0
    )
    found = json.loads((tmp_path / "p.json").read_text())["predictions"]
    expected = Predictor([open_run(workdir)]).predict([file, other])
    for one, answer in zip(found, expected, strict=True):
        assert one["calibrated"] and known.temperature != 1
        # Other formulations of the same convolutions: docs/export.md.
        assert list(one["probabilities"].values()) == pytest.approx(
            list(answer.probabilities.values()), abs=1e-4
        )
        assert one["out_of_distribution"] is None and one["conformal_set"] is None
    with pytest.raises(UserError, match="cannot be explained"):
        Predictor([open_exported(tmp_path / "model")]).explain([], tmp_path / "e")


@pytest.mark.slow
def test_pictures_of_where_the_network_looked_have_the_radiographs_size(workdir, source, tmp_path):
    file = next((source / "healthy").iterdir())
    (tmp_path / "broken.png").write_bytes(b"x")
    call = [
        "predict",
        f"--workdir={workdir}",
        str(tmp_path / "broken.png"),
        str(file),
        f"--explain={tmp_path}/e",
    ]
    assert command(call) == 1
    (drawn,) = (tmp_path / "e").iterdir()
    assert drawn.name == f"00000-{file.stem}.png"
    picture = np.asarray(Image.open(drawn))
    assert picture.shape == (72, 80, 3)
    grey = np.asarray(Image.open(file)).astype(float)
    # The radiograph shows through: where nothing speaks for the class it is the stretched radiograph itself.
    assert np.corrcoef(picture.mean(-1).ravel(), grey.ravel())[0, 1] > 0.3


def test_no_network_is_named(capsys):
    assert command(["predict", "x.png"]) == 2
    assert "no network is named" in capsys.readouterr().err
