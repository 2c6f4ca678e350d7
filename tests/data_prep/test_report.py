"""The page and the card of a data set."""

import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

from data_prep.pictures import SIDE, laid_upon
from data_prep.prepare import prepare
from data_prep.report import _kinds
from data_prep.source import Rejected
from osteojax import config as configs


def texture(seed, side=256):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 2)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Twelve images at two sites, a crop among them, a copy that was mirrored, and files of two kinds of trouble."""
    folder = tmp_path_factory.mktemp("report")
    source = folder / "in"
    source.mkdir()
    lines = ["file,label,patient_id,site"]
    for number in range(12):
        label = ("healthy", "osteopenia", "osteoporosis")[number % 3]
        noise = np.random.default_rng(number).normal(0, 20 if number == 11 else 0, (256, 256))
        Image.fromarray((texture(number) + noise).clip(0, 255).astype(np.uint8)).save(
            source / f"{number}.png"
        )
        lines.append(f"{number}.png,{label},p{number},{'AB'[number // 3 % 2]}")
    Image.fromarray(texture(0)[20:230, 20:230]).save(source / "crop.png")
    Image.fromarray(texture(1)[:, ::-1]).save(source / "<mirror>.png")
    Image.fromarray(np.rot90(texture(2), -1)).save(source / "turned.png")
    lines += ["crop.png,healthy,p20,A", "<mirror>.png,healthy,p21,A", "turned.png,osteoporosis,p22,A"]
    for number in range(3):
        (source / f"bad{number}.png").write_bytes(b"not an image")
        lines.append(f"bad{number}.png,healthy,p3{number},A")
    lines.append("gone.png,healthy,p40,A")
    (source / "labels.csv").write_text("\n".join(lines) + "\n")
    settings = configs.load("configs/prep/prep.py")
    settings.image_size = 96  # at 64 a crop of such texture has lost its fine detail
    settings.workers = 0
    settings.quarantine.max_fraction = 0.5
    settings.audit.shortcuts = False
    prepare(source, folder / "out", settings)
    return folder / "out"


def test_the_page_counts_by_split_class_and_site(prepared):
    page = (prepared / "report.html").read_text()
    table = re.search(r"<caption>Images by site</caption>.*?</table>", page, re.S).group()
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', table, re.S)
    counts = {site: [int(n) for n in re.findall(r"<td>(\d+)</td>", cells)] for site, cells in rows}
    manifest = (prepared / "manifest.csv").read_text()
    assert sum(map(sum, counts.values())) == len(manifest.splitlines()) - 1
    assert sum(counts["A"]) == 9 and sum(counts["B"]) == 6


def test_the_page_pictures_copies_and_denoising_and_names_no_markup(prepared):
    page = (prepared / "report.html").read_text()
    assert page.count("the second laid upon the first") == 3
    for how in (r"turned by (90|89\.99|90\.01) degrees", "mirrored", "cut and scaled"):
        assert re.search(f"{how}; correlation", page)
    assert page.count('alt="before denoising"') == 3 and page.count("grey levels on average") == 3
    taken = [float(grey) for grey in re.findall(r"taken away, ([\d.]+) grey levels", page)]
    assert max(taken) > 0.5  # of the noisy one
    assert "<mirror>" not in page and "&lt;mirror&gt;" in page
    assert page.count('src="data:') == page.count("<img ") and "http" not in re.sub(
        r"http://www.w3.org\S*", "", page
    )
    assert re.search(r'<th scope="row">quarantine.max_fraction</th><td class="text">0.5</td>', page)


def test_the_card_says_what_the_page_says_and_asks_for_the_rest(prepared):
    card = (prepared / "dataset_card.md").read_text()
    assert "15 radiographs of 15 patients" in card and "3 pairs of near copies" in card
    assert "4 files; `quarantine.csv`" in card and "To be filled in by its owner" in card
    fingerprint = re.search(r"<code>(\w{64})</code>", (prepared / "report.html").read_text()).group(1)
    assert f"`{fingerprint}`" in card


def test_reasons_are_counted_by_kind():
    rejected = [
        Rejected("a", "truncated: 3 of 9 bytes"),
        Rejected("b", "truncated: 5 of 7 bytes"),
        Rejected("c", "no such file"),
    ]
    cells = r'<tr><th scope="row">(.*?)</th><td class="text">(\d+)</td><td class="text">(\w)'
    rows = re.findall(cells, _kinds(rejected))
    assert rows == [("truncated", "2", "a"), ("no such file", "1", "c")]
    assert _kinds([]) == ""


def test_what_the_audit_found_is_laid_upon_its_copy(prepared):
    pairs = json.loads((prepared / "audit.json").read_text())["near_duplicates"]
    assert len(pairs) == 3
    for pair in pairs:
        part, whole = (
            np.asarray(Image.open(prepared.parent / "in" / pair[key]), float) for key in ("part", "whole")
        )
        small = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(laid_upon(whole / 255, pair).ravel(), small.ravel())[0, 1] > 0.95, pair


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("turned", [0, 90, 180, -90, 10])
def test_what_is_laid_upon_the_copy_shows_what_the_copy_shows(mirrored, inverted, turned):
    """Against scipy and numpy: the whole mirrored, cut, and the cut turned clockwise."""
    whole = gaussian_filter(np.random.default_rng(0).random((320, 320)), 4)
    whole = (whole - whole.min()) / np.ptp(whole)
    seen = whole[:, ::-1] if mirrored else whole
    if turned == 10:  # scipy turns counter-clockwise as the picture is seen
        part = rotate(seen, -turned, reshape=False, order=1)[80:240, 80:240]
        larger = np.cos(np.deg2rad(10)) + np.sin(np.deg2rad(10))
        box = (0.5 - 0.25 * larger, 0.5 - 0.25 * larger, 0.5 * larger, 0.5 * larger)
    else:
        part = np.rot90(seen[48:208, 32:192], -turned // 90)
        box = (48 / 320, 32 / 320, 0.5, 0.5)
    part = 1 - part if inverted else part
    pair = {"mirrored": mirrored, "inverted": inverted, "rotation": turned, "box": box}
    found = laid_upon(whole.astype(np.float32), pair)
    assert found.shape == (SIDE, SIDE)
    assert np.corrcoef(found[8:-8, 8:-8].ravel(), part[8:-8, 8:-8].ravel())[0, 1] > 0.99
