"""How much writing `data_prep.burned_in` finds where it was rendered, what else it takes for writing, and how fast.

    python benchmarks/burned_in.py [FOLDER ...]

Prints the tables of docs/privacy.md as Markdown. Phantoms need no data; radiographs in the folders given on the command
line join them. Their own writing, if they have any, counts as a false alarm: the files are named, look at them.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.burned_in import find_text
from data_prep.decode import DecodeError, decode, read_bytes
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image

TEXTS = ("DOE^JANE", "12.03.1947", "ID 4711-0815", "KLINIKUM NORD 2019-06-30 10:31", "Maria Schmidt *1951")
MARKERS = ("L", "R", "LI", "RE")
SIDES = "side markers (L, RE), not to be found"
HEIGHTS = (8, 10, 12, 16, 24, 36, 48)
# Pillow's default font, TrueType fonts that matplotlib brings along, and OpenCV's Hershey fonts by number.
FONTS = ("Pillow", "DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "Hershey 0", "Hershey 2", "Hershey 3")
STYLES = ("white on bone", "white on black", "black on bone", "black on white")
PER_FOLDER = 6  # radiographs that are written on


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--phantoms", type=int, default=6)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    phantoms = [phantom(patient) for patient in range(arguments.phantoms)]
    sets = {"phantoms": phantoms}
    print(
        "| pictures | without rendered writing | taken for written on | ms at 1 megapixel (fastest of 5) | which |"
    )
    print("|---|---|---|---|---|")
    alarms("phantoms", [(str(n), image) for n, image in enumerate(phantoms)])
    for folder in arguments.folders:
        named = list(radiographs(folder))
        alarms(folder.name, named)
        sets[folder.name] = [image for _, image in named[:: max(1, len(named) // PER_FOLDER)]]
    for name, images in sets.items():
        print(f"\n| {name} | lines rendered | found | covered by 95 % |\n|---|---|---|---|")
        recall(images)


def phantom(patient: int) -> np.ndarray:
    """Of 1 megapixel, under its noise."""
    config = PhantomConfig(image_size=(1120, 896))
    return generate_image(CLASS_NAMES[patient % 3], patient=patient, config=config).noisy.astype(np.float32)


def radiographs(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels of what is readable below a folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            yield path.name, decode(read_bytes(path)).pixels
        except DecodeError:
            continue


def alarms(name: str, named: list[tuple[str, np.ndarray]]) -> None:
    """One row: how many pictures are taken for written on, and the median time."""
    which, times = [], []
    for file, image in named:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            found = find_text(image)
            seconds.append(time.perf_counter() - start)
        times.append(min(seconds) * 1e9 / image.size)
        if found:
            which.append(file)
    shown = ", ".join(which[:8]) + (" ..." if len(which) > 8 else "")
    print(f"| {name} | {len(named)} | {len(which)} | {np.median(times):.1f} | {shown} |", flush=True)


def recall(images: list[np.ndarray]) -> None:
    """Share of the lines that are found, and of those whose letters are covered, by style, font and height."""
    rng = np.random.default_rng(0)
    rows = defaultdict(list)
    for image in images:
        for height in HEIGHTS:
            for font in FONTS:
                for style in STYLES:
                    drawn = write(image, str(rng.choice(TEXTS)), font, height, style, rng)
                    if drawn is None:
                        continue
                    share = covered(*drawn)
                    for key in ("all", style, font, f"height {height} pixels"):
                        rows[key].append(share)
            drawn = write(image, str(rng.choice(MARKERS)), "DejaVuSans", height, "white on bone", rng)
            if drawn is not None:
                rows[SIDES].append(covered(*drawn))
    for key in ("all", *STYLES, *FONTS, *(f"height {h} pixels" for h in HEIGHTS), SIDES):
        shares = np.array(rows[key])
        if shares.size:
            print(f"| {key} | {shares.size} | {(shares > 0.01).mean():.3f} | {(shares > 0.95).mean():.3f} |")


def write(
    image: np.ndarray, text: str, font: str, height: int, style: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """The picture with a line in a corner or anywhere, and where its letters can be seen.

    None where it does not fit, or where most of it is in the tone of what is under it.
    """
    letters = rendered(text, font, height)
    rows, columns = np.array(image.shape) - letters.shape - 16
    if rows <= 0 or columns <= 0:
        return None
    anywhere = rng.random() < 0.2
    top = int(rng.integers(rows)) if anywhere else int(rng.choice([0, rows]))
    left = int(rng.integers(columns)) if anywhere else int(rng.choice([0, columns]))
    window = slice(top + 8, top + 8 + letters.shape[0]), slice(left + 8, left + 8 + letters.shape[1])
    low, high = np.percentile(image, (0.1, 99.9))
    tone, ground = (high, low) if style.startswith("white") else (low, high)
    result = image.copy()
    if not style.endswith("bone"):
        result[window] = ground
    seen = (letters > 0.5) & (np.abs(result[window] - tone) > 0.2 * (high - low))
    if seen.sum() < 0.5 * (letters > 0.5).sum():
        return None
    result[window] = result[window] * (1 - letters) + tone * letters
    where = np.zeros(image.shape, bool)
    where[window] = seen
    return result.astype(np.float32), where


def rendered(text: str, font: str, height: int) -> np.ndarray:
    """Coverage in [0, 1] of a line whose capitals are about so high in pixels."""
    if font.startswith("Hershey"):
        face, thickness = int(font.split()[1]), max(1, round(height / 10))
        scale = cv2.getFontScaleFromHeight(face, height, thickness)
        (width, _), base = cv2.getTextSize(text, face, scale, thickness)
        canvas = np.zeros((height + base + thickness + 4, width + 4), np.uint8)
        cv2.putText(canvas, text, (2, height + 2), face, scale, 255, thickness, cv2.LINE_AA)
    else:
        size = round(height / 0.72)
        fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
        face = (
            ImageFont.load_default(size)
            if font == "Pillow"
            else ImageFont.truetype(fonts / f"{font}.ttf", size)
        )
        left, top, right, bottom = face.getbbox(text)
        drawn = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
        ImageDraw.Draw(drawn).text((2 - left, 2 - top), text, fill=255, font=face)
        canvas = np.asarray(drawn)
    return canvas / np.float32(255)


def covered(image: np.ndarray, letters: np.ndarray) -> float:
    """The share of the letters' pixels within the boxes that are found."""
    boxes = np.zeros(image.shape, bool)
    for box in find_text(image):
        boxes[box.top : box.bottom, box.left : box.right] = True
    return float(boxes[letters].mean())


if __name__ == "__main__":
    main()
