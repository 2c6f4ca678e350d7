"""Near copies of training images in another institution's dataset, through `evaluate` itself."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_prep.audit.near_duplicates import ACCEPT
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image
from data_prep.preprocess import PreprocessSpec
from data_prep.shards import Example, write_shards
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.evaluate import evaluate, external
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.evaluate.near_copies import near_copies
from osteojax.train.loop import train
from tests.osteojax import small

SIZE = 160
CONFIG = PhantomConfig(image_size=(SIZE, SIZE), seed=9)


def knee(number):
    image = generate_image(CLASS_NAMES[number % 3], patient=number, config=CONFIG).noisy
    return (image - image.min()) / np.ptp(image)


def resized(image):
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).clip(0, 1)


def write(out, splits, fingerprint):
    """A dataset of the given pictures; the manifest tells every one of them apart."""
    pictures, written, rows = {}, {}, ["file,label,patient_id,group,split,pixels"]
    for split, images in splits.items():
        written[split] = []
        for name, image in images.items():
            number = len(pictures)
            example = Example(
                f"{number:016x}", f"{name}.png", CLASS_NAMES[number % 3], f"{out.name}-{name}", name
            )
            pictures[example.id] = image[..., None].astype(np.float32)
            written[split].append(example)
            rows.append(
                f"{example.file},{example.label},{example.patient_id},{name},{split},{out.name}-{name}"
            )
    description = {
        "preprocessing": dataclasses.asdict(PreprocessSpec(image_size=SIZE)),
        "class_names": list(CLASS_NAMES),
        "fingerprint": fingerprint,
        "seed": 0,
    }
    write_shards(
        out,
        written,
        lambda example: pictures[example.id],
        image_size=SIZE,
        class_names=CLASS_NAMES,
        description=description,
    )
    (out / "manifest.csv").write_text("\n".join(rows) + "\n")
    return out


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    learned = {f"own{n}": knee(n) for n in range(8)}
    names = list(learned)
    own = {
        "train": {name: learned[name] for name in names[:4]},
        "val": {name: learned[name] for name in names[4:6]},
        "test": {name: learned[name] for name in names[6:]},
    }
    foreign = {
        "fresh": knee(20),
        "mirrored crop": resized(learned["own1"][8:140, 12:150][:, ::-1]),
        "negative of val": 1 - learned["own5"],
        "turned test": np.rot90(learned["own7"]),  # it was not learned from
        "another": knee(21),
    }
    write(folder / "own", own, "own")
    write(folder / "other", {"train": {"of train": learned["own0"]}, "test": foreign}, "other")
    config = small.quick_config(folder / "own")
    config.epochs = 1.0
    train(config, folder / "run")
    return folder


def test_they_are_found_and_named(hospitals):
    own, other = (PreparedDataset.open(hospitals / name) for name in ("own", "other"))
    found = {copy.tested: copy for copy in near_copies(own, other, "test")}
    assert {name: copy.learned for name, copy in found.items()} == {
        "mirrored crop.png": "own1.png",
        "negative of val.png": "own5.png",
    }
    assert all(ACCEPT <= copy.correlation <= 1 for copy in found.values())


def test_evaluation_refuses_them(hospitals):
    run, other = hospitals / "run", str(hospitals / "other")
    with pytest.raises(
        UserError, match=r"0 identical images and 2 near copies, such as mirrored crop.png of own1.png"
    ):
        evaluate_run(run, data_dir=other)
    overlap = evaluate_run(run, data_dir=other, allow_overlap=True)["external"]["overlap"]
    assert overlap["shared"] == {"patient_id": 0, "pixels": 0, "near_copies": 2} and overlap["allowed"]
    assert [copy["learned"] for copy in overlap["near_copies"]] == ["own1.png", "own5.png"]
    assert json.dumps(overlap)


def test_what_was_not_looked_for_is_not_said_to_be_absent(hospitals, caplog):
    run, other = hospitals / "run", str(hospitals / "other")
    overlap = evaluate_run(run, data_dir=other, near_copies=False)["external"]["overlap"]
    assert overlap["shared"]["near_copies"] is None and overlap["near_copies"] is None
    info = hospitals / "own" / "metadata.json"
    honest = info.read_text()
    try:
        info.write_text(honest.replace('"own"', '"changed"'))  # the fingerprint
        overlap = evaluate_run(run, data_dir=other)["external"]["overlap"]
    finally:
        info.write_text(honest)
    assert overlap["shared"]["near_copies"] is None
    assert "is not what was learned from" in caplog.text


def test_of_several_runs_the_most_is_told():
    def found(patients, copies):
        return {
            "checked": True,
            "shared": {"patient_id": patients, "near_copies": None if copies is None else len(copies)},
            "near_copies": copies,
            "allowed": True,
        }

    both = external.together([found(2, [{"tested": "a"}]), found(0, [{"tested": "b"}, {"tested": "c"}])])
    assert both["shared"] == {"patient_id": 2, "near_copies": 2} and len(both["near_copies"]) == 3
    assert external.together([found(2, []), found(3, None)])["shared"] == {
        "patient_id": 3,
        "near_copies": None,
    }
    assert external.together([found(0, []), {"checked": False}]) == {"checked": False}


@pytest.mark.parametrize(
    ("weights", "asked"),
    [
        ((None, None), ["b"]),
        (({"sha256": "1"}, {"sha256": "2"}), ["a", "b"]),
        ((None, {"sha256": "2"}), ["a", "b"]),
    ],
)
def test_runs_of_other_weights_are_each_asked(hospitals, monkeypatch, weights, asked):
    record = {"class_names": [], "preprocessing": {}, "dataset_fingerprint": "theirs"}
    runs = [
        SimpleNamespace(workdir=name, tested=(None, None), record=record | {"origin": {"weights": of}})
        for name, of in zip("ab", weights, strict=True)
    ]
    seen = []

    def check(run, *arguments, **settings):
        seen.append(run.workdir)
        return {"checked": False}

    monkeypatch.setattr(external, "check_overlap", check)
    other = PreparedDataset.open(hospitals / "other")
    assert evaluate._overlap(runs, other, "test", allowed=False, search=False) == {"checked": False}
    assert seen == asked
