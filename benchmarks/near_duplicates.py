"""How well the near-duplicate search tells copies from other knees.

    python benchmarks/near_duplicates.py --source=FOLDER [--every=4]

Makes one copy of every n-th radiograph below FOLDER (cropped to 72 to 100 % of each side, half of them
mirrored, gamma 0.8 to 1.25, squashed to 224x224, JPEG of quality 60) and prints the share that is found by
the smallest side of the crop, and the highest correlations of pairs that are no copies. Identical files are
left out beforehand.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.audit.near_duplicates import find_near_duplicates, thumbnail
from data_prep.decode import decode
from data_prep.image_task import content_hash

SUFFIXES = (".jpg", ".jpeg", ".png")


def copy_of(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A copy and the smaller of the two fractions that it was cropped to."""
    shares = rng.uniform(0.72, 1.0, 2)
    height, width = (shares * image.shape).astype(int)
    top, left = (int(rng.uniform(0, n - m)) for n, m in zip(image.shape, (height, width), strict=True))
    crop = image[top : top + height, left : left + width]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    crop = 255 * (crop / 255) ** rng.uniform(0.8, 1.25)
    stream = io.BytesIO()
    small = Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8)).resize((224, 224))
    small.save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream)).astype(np.float32), float(shares.min())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    originals, seen = [], set()
    files = sorted(p for p in arguments.source.rglob("*") if p.suffix.lower() in SUFFIXES)
    for path in files[:: arguments.every]:
        pixels = decode(path.read_bytes()).pixels
        if (digest := content_hash(pixels)) not in seen:
            seen.add(digest)
            originals.append(pixels)
    copies, shares = zip(*(copy_of(image, rng) for image in originals), strict=True)
    n, shares = len(originals), np.array(shares)
    thumbnails = np.stack([thumbnail(image) for image in (*originals, *copies)])
    found = find_near_duplicates(thumbnails)
    hits = {min(pair.part, pair.whole) for pair in found if abs(pair.part - pair.whole) == n}
    for low, high in ((0.72, 0.8), (0.8, 0.9), (0.9, 1.0)):
        members = set(np.flatnonzero((shares >= low) & (shares < high)).tolist())
        print(f"cropped to {low:.0%}..{high:.0%}: {len(hits & members)} of {len(members)} copies found")
    print(f"all: {len(hits)} of {n} copies found; other pairs accepted: {len(found) - len(hits)}")
    others = find_near_duplicates(thumbnails, same=lambda a, b: abs(a - b) == n, accept=0.0)
    highest = sorted((pair.correlation for pair in others), reverse=True)[:5]
    print("highest correlations of pairs that are no copies:", *(f"{c:.3f}" for c in highest))


if __name__ == "__main__":
    main()
