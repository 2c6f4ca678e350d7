"""The report: what it says against the run's record, hostile text, leaks, and accessibility in a real browser."""

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import pytest
import small
from pages import needs_browser, outline, violations

from osteojax.cli.main import run as command
from osteojax.data import leaks
from osteojax.errors import UserError
from osteojax.evaluate.evaluate import evaluate_run
from osteojax.page import Html, document, section, table, text
from osteojax.report.card import card
from osteojax.report.checklists import CLAIM, TRIPOD
from osteojax.report.report import gather, page
from osteojax.report.svg import Chart, confusion
from osteojax.train.loop import train


@pytest.fixture(scope="module")
def workdir(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "run <b>1"
    train(small.quick_config(prepared), folder)
    evaluate_run(folder)
    return folder


@pytest.fixture(scope="module")
def material(workdir):
    return gather(workdir)


def test_the_page_is_whole_needs_no_network_and_says_what_metrics_json_says(material):
    text_of_page = page(material)
    found = outline(text_of_page)
    words = " ".join(found.words)
    for tag, attributes in found.attributes:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)
    assert "script" not in found.tags and "@import" not in text_of_page and "url(" not in text_of_page
    anchors = {a["id"] for _, a in found.attributes if "id" in a}
    assert {a["href"][1:] for tag, a in found.attributes if tag == "a"} == anchors
    metrics = material.metrics
    for name in small.CLASSES:
        entry = metrics["per_class"][name]["recall"]
        if entry["value"] is not None:
            assert (
                f"{100 * entry['value']:.1f} ({100 * entry['ci95'][0]:.1f} to {100 * entry['ci95'][1]:.1f})"
                in words
            )
    assert metrics["dataset_fingerprint"] in words and metrics["config_hash"] in words
    assert "90.2 %" in words
    assert f"{metrics['calibration']['temperature']:.2f}" in words


def test_names_are_shown_and_not_run(material):
    assert "<b>" not in page(material) and "run &lt;b&gt;1" in page(material)
    assert text("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;" and text(Html("<b>")) == "<b>"
    shown = table(["<i>"], [["<script>"]], 'a "caption"')
    assert "<script>" not in shown and "<i>" not in shown and 'aria-label="a &quot;caption&quot;"' in shown
    assert "<x>" not in document("<x>", [section("<x>", "<x>")], sections={"<x>": "<x>"})
    assert "<x>" not in Chart("<x>", "<x>", "<x>").line([0, 1], [0, 1], 0, "<x>").figure()
    assert "<x>" not in confusion([[1]], ["<x>"])


def test_headings_tables_and_pictures_are_named(material):
    found = outline(page(material))
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert found.tags.count("table") == found.tags.count("caption") > 8
    assert all(a.get("alt") for tag, a in found.attributes if tag == "img")
    assert all(a.get("aria-label") and a.get("role") == "img" for tag, a in found.attributes if tag == "svg")
    assert all(a.get("scope") for tag, a in found.attributes if tag == "th")


def test_the_gallery_shows_right_wrong_and_unsure_images_of_the_split(material):
    kinds = {shown.kind for shown in material.explained.shown}
    assert {"right", "unsure"} <= kinds or {"wrong", "unsure"} <= kinds
    for shown in material.explained.shown:
        assert shown.picture[:2] == b"\xff\xd8"
        assert (shown.true == shown.predicted) == (shown.kind == "right") or shown.kind not in (
            "right",
            "wrong",
        )
        assert 0 <= shown.probability <= 1
    assert len(material.explained.randomised) >= 5
    assert material.explained.faithfulness.of_map.deletion.shape[1] == 15


def test_a_leak_is_said_on_top(material):
    rows = [
        {"split": "train", "patient_id": "a", "group": "g1", "pixels": "1", "label": "healthy"},
        {"split": "test", "patient_id": "b", "group": "g2", "pixels": "2", "label": "healthy"},
    ]
    clean = page(dataclasses.replace(material, manifest=rows))
    assert "No leak found" in clean
    rows[1]["patient_id"] = "a"
    leaking = page(dataclasses.replace(material, manifest=rows))
    assert "LEAK: training and test share 1 patients" in leaking
    assert leaking.index("LEAK") < leaking.index("balanced accuracy")
    assert "could not be checked" in page(dataclasses.replace(material, manifest=None))


def test_a_leak_between_folds_is_told_by_the_page_and_by_the_card(material):
    record = {"group": "", "label": "healthy"}
    rows = [
        {"split": f"fold{i}", "patient_id": p, "pixels": str(i), **record}
        for i, p in enumerate(("a", "b", "c", "a"))
    ]
    config = material.run.config.copy_and_resolve_references()
    config.fold = 3  # fold 0 validates: it may not share, but it is not learned from
    run = dataclasses.replace(material.run, config=config)
    clean = dataclasses.replace(material, run=run, manifest=rows)
    assert clean.leaks.compared == (2, 1) and "No leak found: 2 training and 1 test" in page(clean)
    rows[1]["patient_id"] = "a"
    leaking = dataclasses.replace(material, run=run, manifest=rows)
    assert "LEAK: training and test share 1 patients" in page(leaking)
    assert "LEAK between training and test" in card(leaking)


def test_what_two_manifests_share(tmp_path):
    (tmp_path / "manifest.csv").write_text("patient_id,group,pixels\n'=p,g,x\nq,,y\n")
    rows = leaks.read_manifest(tmp_path)
    assert rows[0]["patient_id"] == "=p" and leaks.read_manifest(tmp_path / "no") is None
    found = leaks.between(rows, [{"patient_id": "q", "group": "", "pixels": "z"}])
    assert found.shared == {"patient_id": 1, "group": 0, "pixels": 0} and not found.clean


def test_charts_stay_inside_and_thin_long_lines():
    chart = Chart("t", "x", "y").line(np.linspace(-1, 2, 5000), np.linspace(-1, 2, 5000), 1, "n")
    (points,) = re.findall(r'<polyline points="([^"]+)"', chart._svg())
    values = np.asarray([[float(v) for v in pair.split(",")] for pair in points.split()])
    assert (
        len(values) <= 400 and values.min() >= 0 and values[:, 0].max() <= 380 and values[:, 1].max() <= 300
    )
    # Higher is further up.
    assert values[0, 1] > values[-1, 1] and values[0, 0] < values[-1, 0]


def test_the_card_answers_what_the_record_answers_and_names_who_must_answer_the_rest(material):
    written = card(material)
    assert len(CLAIM) == 44 and len({item.number for item in TRIPOD}) == len(TRIPOD)
    assert "to be answered by the owners of the data" in written
    for item in (*CLAIM, *TRIPOD):
        assert f"| {item.number} | {item.asks} |" in written
    entry = material.metrics["per_class"]["healthy"]["precision"]
    assert f"{100 * entry['value']:.1f}" in written
    assert all(len(line.split("|")) in (1, 5, 7) for line in written.splitlines() if line.startswith("|"))


@pytest.mark.slow
def test_the_command_evaluates_first_where_that_was_not_done(prepared, tmp_path, capsys):
    train(small.quick_config(prepared), tmp_path / "run")
    assert command(["report", f"--workdir={tmp_path}/run", "--no-explain"]) == 0
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "model_card.md").is_file()
    assert (tmp_path / "run" / "eval" / "test" / "metrics.json").is_file()
    (tmp_path / "run" / "eval" / "test" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="evaluate the run again"):
        gather(tmp_path / "run", explain=False)


def test_without_the_dataset_it_is_said(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    given = gather(tmp_path / "moved")
    assert given.dataset is not None and config
    away = dataclasses.replace(given, dataset=None, manifest=None, audit=None, explained=None)
    assert "dataset is not at hand" in page(away)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(material, tmp_path, width, dark):
    assert violations(page(material), tmp_path, width=width, dark=dark) == []


def test_attention_stands_beside_the_map_where_there_is_one(material):
    given = material.explained
    looked = [dataclasses.replace(shown, attention=shown.picture) for shown in given.shown]
    both = dataclasses.replace(material, explained=dataclasses.replace(given, shown=looked))
    pictures = [len(re.findall(r'<img [^>]*with its (?:map|attention)"', page(m))) for m in (material, both)]
    assert pictures == [len(looked), 2 * len(looked)]
    assert "attention rollout" in page(both) and "attention rollout" not in page(material)
