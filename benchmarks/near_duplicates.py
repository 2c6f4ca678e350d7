"""How well the near-duplicate search tells copies from other radiographs, and what it costs.

    python benchmarks/near_duplicates.py --source=FOLDER [--every=4] [--kinds=mirror,inverted]
    python benchmarks/near_duplicates.py --source=phantom --every=10
    python benchmarks/near_duplicates.py --images=2000

With `--source`, makes one copy of each kind of every n-th radiograph below FOLDER (or phantom), squashed to 224x224 as
a prepared image is, and prints for each kind which share of the copies is found (recall), and which share of the pairs
found is one copy and its original (precision). Identical files are left out beforehand, and a pair of originals that is
found without any copy is told by itself: it may be a copy indeed. A crop that shows next to nothing, a standard
deviation below half of the image's, is drawn again.

With `--images`, searches that many pictures without copies, and prints time and memory. They are a hundred phantoms,
each time under grain of its own, so that all stages have work: keypoints, candidates that share an anatomy, and the
comparison that refuses them.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, rotate, zoom

from data_prep.audit.near_duplicates import find_near_duplicates
from data_prep.decode import decode
from data_prep.image_task import content_hash
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image

SUFFIXES = (".jpg", ".jpeg", ".png")
SIDE = 224
Rng = np.random.Generator


def crop(image: np.ndarray, rng: Rng, low: float, high: float) -> np.ndarray:
    """A random window, each side by itself of `low` to `high` of the image's."""
    for _ in range(20):
        height, width = (rng.uniform(low, high, 2) * image.shape).astype(int)
        top, left = (int(rng.uniform(0, n - m)) for n, m in zip(image.shape, (height, width), strict=True))
        window = image[top : top + height, left : left + width]
        if window.std() > image.std() / 2:
            break
    return window


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Written and read again."""
    stream = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(np.float64)


def written_on(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Three lines of text, an eighteenth of the height each."""
    page = Image.fromarray(image.astype(np.uint8))
    font = ImageFont.load_default(size=image.shape[0] / 18)
    for _ in range(3):
        place = rng.uniform(0, 0.5) * image.shape[1], rng.uniform(0.05, 0.9) * image.shape[0]
        ImageDraw.Draw(page).text(place, "R 12345 AP", fill=255, font=font)
    return np.asarray(page).astype(np.float64)


def bordered(image: np.ndarray, rng: Rng, grey: int) -> np.ndarray:
    """A frame of 5 to 15 % of a side at each edge."""
    top, bottom, left, right = rng.uniform(0.05, 0.15, 4)
    height, width = image.shape
    pad = ((int(height * top), int(height * bottom)), (int(width * left), int(width * right)))
    return np.pad(image, pad, constant_values=grey)


def equalised(image: np.ndarray) -> np.ndarray:
    """Histogram equalisation: each grey level becomes the share of pixels that are darker."""
    shares = np.cumsum(np.bincount(image.astype(np.uint8).ravel(), minlength=256)) / image.size
    return 255 * shares[image.astype(np.uint8)]


def turned(degrees: float) -> Callable[[np.ndarray, Rng], np.ndarray]:
    """Turned within its frame."""
    return lambda image, rng: rotate(image, degrees, reshape=False, order=1)


KINDS: dict[str, Callable[[np.ndarray, Rng], np.ndarray]] = {
    "JPEG of quality 40": lambda image, rng: jpeg(image, 40),
    "a third of the size": lambda image, rng: zoom(gaussian_filter(image, 1.2), 1 / 3, order=1),
    "cropped to 90..100 %": lambda image, rng: crop(image, rng, 0.9, 1.0),
    "cropped to 80..90 %": lambda image, rng: crop(image, rng, 0.8, 0.9),
    "cropped to 65..80 %": lambda image, rng: crop(image, rng, 0.65, 0.8),
    "cropped to 50..65 %": lambda image, rng: crop(image, rng, 0.5, 0.65),
    "left half": lambda image, rng: image[:, : image.shape[1] // 2],
    "right half": lambda image, rng: image[:, image.shape[1] // 2 :],
    "mirror image": lambda image, rng: image[:, ::-1],
    "upside down": lambda image, rng: image[::-1],
    "turned by 90": lambda image, rng: np.rot90(image),
    "turned by 180": lambda image, rng: np.rot90(image, 2),
    "turned by 270": lambda image, rng: np.rot90(image, 3),
    "turned by 2": turned(2),
    "turned by -5": turned(-5),
    "turned by 10": turned(10),
    "inverted": lambda image, rng: 255 - image,
    "contrast x 1.5": lambda image, rng: (image - 128) * 1.5 + 128,
    "darker by 0.15": lambda image, rng: image - 38,
    "brighter by 0.15": lambda image, rng: image + 38,
    "gamma 0.6": lambda image, rng: 255 * (image / 255) ** 0.6,
    "gamma 1.6": lambda image, rng: 255 * (image / 255) ** 1.6,
    "equalised": lambda image, rng: equalised(image),
    "blurred": lambda image, rng: gaussian_filter(image, 1.5 * min(image.shape) / SIDE),
    "text": written_on,
    "white border": lambda image, rng: bordered(image, rng, 255),
    "black border": lambda image, rng: bordered(image, rng, 0),
    "mirrored, cropped to 70..85 %, inverted, JPEG": lambda image, rng: jpeg(
        255 - crop(image, rng, 0.7, 0.85)[:, ::-1], 60
    ),
}


def squashed(image: np.ndarray) -> np.ndarray:
    """As preparation does it."""
    grey = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)).astype(np.float32)


def originals(source: Path, every: int) -> list[np.ndarray]:
    """Every n-th radiograph, each content once; of the phantom every n-th of 200 patients."""
    if str(source) == "phantom":
        config = PhantomConfig(seed=2)
        return [
            255 * generate_image(CLASS_NAMES[n % 3], patient=n, config=config).noisy.astype(np.float64)
            for n in range(0, 200, every)
        ]
    found = {}
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    for path in files[::every]:
        pixels = decode(path.read_bytes()).pixels
        low, high = float(pixels.min()), float(pixels.max())
        found.setdefault(content_hash(pixels), 255 * (pixels - low) / max(high - low, 1e-6))
    return list(found.values())


def measure(
    kind: str, images: list[np.ndarray], whole: list[np.ndarray], alone: set[tuple[int, int]]
) -> None:
    """Prints recall and precision of one kind; `whole` are `images`, squashed."""
    rng, n = np.random.default_rng(0), len(images)
    copies = [squashed(KINDS[kind](image, rng)) for image in images]
    pairs = {
        (min(p.part, p.whole), max(p.part, p.whole)) for p in find_near_duplicates([*whole, *copies], 2 * n)
    }
    planted = {(low, high) for low, high in pairs if high - low == n}
    # Two originals that are alike make each other's copies alike, which is not the copy's fault.
    wrong = {(low, high) for low, high in pairs - planted if tuple(sorted((low % n, high % n))) not in alone}
    found, accepted = len(planted), len(planted) + len(wrong)
    precision = f"{found / accepted:.3f}" if accepted else "-"
    print(
        f"{kind:48} recall {found / n:.3f} ({found} of {n})  precision {precision} ({len(wrong)} wrong)",
        flush=True,
    )


def pictures(count: int) -> Iterator[np.ndarray]:
    """Pictures that are no copies of each other, (SIDE, SIDE) float32: few anatomies, each under grain of its own."""
    side = 128
    config = PhantomConfig(image_size=(side, side), seed=1)
    anatomies = [
        generate_image(CLASS_NAMES[n % 3], patient=n, config=config).clean for n in range(min(count, 100))
    ]
    for number in range(count):
        rng = np.random.default_rng(number)
        grain = sum(
            cv2.resize(rng.normal(size=(n, n)).astype(np.float32), (side, side))
            for n in (side // 4, side // 2, side)
        )
        picture = 1 + anatomies[number % len(anatomies)].astype(np.float32)
        yield cv2.resize(picture + np.float32(0.03) * grain, (SIDE, SIDE))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", type=Path)
    what.add_argument("--images", type=int)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--kinds", default=",".join(KINDS).replace(", ", "; "), help="some of them, by comma")
    arguments = parser.parse_args()
    if arguments.images:
        made = [0.0]

        def timed() -> Iterator[np.ndarray]:
            source = pictures(arguments.images)
            while True:
                before = time.thread_time()
                picture = next(source, None)
                made[0] += time.thread_time() - before
                if picture is None:
                    return
                yield picture

        wall, cpu = time.perf_counter(), time.process_time()
        found = find_near_duplicates(timed(), arguments.images)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{arguments.images} images: {cpu - made[0]:.0f} CPU-seconds (and {made[0]:.0f} to make them), "
            f"{wall:.0f} s, peak {peak:.2f} GiB, {len(found)} pairs"
        )
        return
    images = originals(arguments.source, arguments.every)
    whole = [squashed(image) for image in images]
    between = find_near_duplicates(whole, len(whole))
    alone = {(min(p.part, p.whole), max(p.part, p.whole)) for p in between}
    print(f"{len(images)} originals; pairs among them alone: {len(alone)}", flush=True)
    for kind in arguments.kinds.split(","):
        measure(kind.replace("; ", ", "), images, whole, alone)


if __name__ == "__main__":
    main()
