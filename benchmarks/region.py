"""How well `data_prep.region` finds femur, tibia and joint space where it is known, and what it says of real films.

    python benchmarks/region.py [FOLDER --sheets=PLACE] [--weights=FILE]

Prints the tables of docs/region.md as Markdown: phantoms as `osteojax prep --source=phantom` makes them, and the wider
films of `data_prep.phantom.films`, both of seeds that nothing was learned from. Of the radiographs in FOLDER, of which
nobody knows it, it counts what the program says, and draws every film with the outlines into PLACE, to be looked at.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion, distance_transform_edt

from data_prep.decode import DecodeError, decode, read_bytes
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image
from data_prep.phantom.films import draw_films, draw_leg
from data_prep.phantom.regions import REGIONS, image_regions
from data_prep.preprocess import PreprocessSpec, segmenter_input
from data_prep.region.joint import Region, find_region
from data_prep.region.segment import segment
from data_prep.region.spec import FOUND, SIZE, region_spec

HELD_OUT = 1000  # a seed; training's is 0
LEGS, COLOURS = 24, ((255, 70, 70), (80, 255, 80), (80, 160, 255))
PLAIN = PreprocessSpec()
PER_SHEET, TILE = 24, 420


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--weights", default="")
    parser.add_argument("--phantoms", type=int, default=100)
    parser.add_argument("--films", type=int, default=400)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    weights = region_spec("crop", arguments.weights).weights
    print("| held out | region | Dice, mean | Dice, lowest | boundary, mean in pixels | 95th percentile |")
    print("|---|---|---|---|---|---|")
    scores("phantoms, 448 pixels", phantoms(arguments.phantoms, weights))
    films = list(held_out_films(arguments.films, weights))
    # A region that a film does not show has no Dice; films without any are for the table below.
    scores(f"films, {SIZE} pixels", films)
    trust(films)
    if arguments.folder:
        real(arguments.folder, weights, arguments.sheets)


def phantoms(count: int, weights: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Probabilities, answer and truth, at the phantom's own pixels."""
    config = PhantomConfig(seed=HELD_OUT)
    for patient in range(count):
        image = generate_image(CLASS_NAMES[patient % 3], patient=patient, config=config)
        pixels = np.rint(255 * image.noisy)
        p = segment(segmenter_input(pixels, PLAIN)[0], weights)
        truth = image_regions(image.patient, image.acquisition, config.image_size)
        yield p, cv2.resize(p, truth.shape[::-1]).argmax(-1), truth


def held_out_films(count: int, weights: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Likewise of films, at the segmenter's pixels."""
    legs = [draw_leg(HELD_OUT, index) for index in range(LEGS)]
    images, labels = draw_films(legs, SIZE, count, HELD_OUT, 0)
    for image, truth in zip(images, labels, strict=True):
        p = segment(image, weights)
        yield p, p.argmax(-1), truth


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; NaN where the truth is empty."""
    return 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum()) if truth.any() else np.nan


def distances(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """From each boundary pixel of either mask to the other's boundary, in pixels; none where one is empty."""
    if not (found.any() and truth.any()):
        return np.zeros(0)
    a, b = (mask & ~binary_erosion(mask, border_value=1) for mask in (found, truth))
    if not (a.any() and b.any()):
        return np.zeros(0)
    return np.concatenate([distance_transform_edt(~b)[a], distance_transform_edt(~a)[b]])


def scores(name: str, answers: Iterator | Sequence) -> None:
    """A row a region: Dice over the images, boundary distances over all boundary pixels."""
    overlap: list[list[float]] = [[], [], []]
    apart: list[list[np.ndarray]] = [[], [], []]
    for _, found, truth in answers:
        for region in (1, 2, 3):
            overlap[region - 1].append(dice(found == region, truth == region))
            apart[region - 1].append(distances(found == region, truth == region))
    for region, values, far in zip(REGIONS[1:], overlap, apart, strict=True):
        far = np.concatenate(far)
        print(
            f"| {name} | {region} | {np.nanmean(values):.3f} | {np.nanmin(values):.3f} | {far.mean():.2f} | "
            f"{np.percentile(far, 95):.2f} |"
        )


def trust(films: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Of the films, what is said, and how often it is right: the Dice of the joint space is 0.8 or more."""
    right = [dice(found == 3, truth == 3) >= 0.8 for _, found, truth in films]
    said = [find_region(p).reason for p, _, _ in films]
    print("\n| films | images | joint space with a Dice of 0.8 or more |\n|---|---|---|")
    for reason, count in Counter(said).most_common():
        print(f"| {reason} | {count} | {sum(r for r, s in zip(right, said, strict=True) if s == reason)} |")


def real(folder: Path, weights: str, sheets: Path | None) -> None:
    """What is said of a folder's radiographs, and pictures of all of them."""
    said: Counter[str] = Counter()
    tiles = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            radiograph = decode(read_bytes(path))
        except DecodeError:
            continue
        square, window = segmenter_input(radiograph.pixels, PLAIN, radiograph.pixel_aspect)
        p = segment(square, weights)[window]
        region = find_region(p)
        said[region.reason] += 1
        if sheets:
            tiles.append(drawn(radiograph.pixels, p, region, f"{len(tiles)}: {region.reason}"))
    print(f"\n| {folder.name} | images | share |\n|---|---|---|")
    for reason, count in said.most_common():
        print(f"| {reason} | {count} | {count / said.total():.1%} |")
    if sheets:
        sheets.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(tiles), PER_SHEET):
            sheet = Image.new("RGB", (6 * TILE, 4 * TILE))
            for place, tile in enumerate(tiles[start : start + PER_SHEET]):
                sheet.paste(tile, (place % 6 * TILE, place // 6 * TILE))
            sheet.save(sheets / f"sheet{start // PER_SHEET}.png")


def drawn(pixels: np.ndarray, p: np.ndarray, region: Region, text: str) -> Image.Image:
    """A film with the outlines of the answer and, in yellow, of the crop."""
    scale = TILE / max(pixels.shape)
    shown = cv2.resize(np.asarray(pixels, np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    shown = np.clip(255 * (shown - shown.min()) / max(np.ptp(shown), 1e-6), 0, 255).astype(np.uint8)
    picture = np.repeat(shown[..., None], 3, -1)
    labels = cv2.resize(p, shown.shape[::-1]).argmax(-1)
    for number, colour in enumerate(COLOURS, start=1):
        contours, _ = cv2.findContours(
            (labels == number).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, contours, -1, colour, 1)
    tile = Image.fromarray(picture)
    draw, (height, width) = ImageDraw.Draw(tile), shown.shape
    (top, bottom), (left, right) = region.rows, region.columns
    if region.reason == FOUND:
        draw.rectangle(
            (left * width, top * height, right * width - 1, bottom * height - 1), outline=(255, 255, 0)
        )
    draw.text((4, 4), text, fill=(255, 255, 0))
    return tile


if __name__ == "__main__":
    main()
