"""How much of the maps lies on bone, on the phantom of a demo run, with chance beside it.

    make demo && python benchmarks/pointing_game.py [--demo=demo]

Bone is what is brighter than Otsu's threshold in the noise-free image that the phantom wrote beside each radiograph.
The maps are of the predicted class, for all test images. Prints Markdown: hits (the map's highest pixel lies on bone),
the share of the map's mass on bone, and the share of the picture that is bone, which is chance for both.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.filters import threshold_otsu

from osteojax.explain.registry import EXPLAINERS
from osteojax.explain.sanity import pointing
from osteojax.run.open import open_run


def bone(path, size):
    """Boolean (size, size)."""
    image = Image.fromarray(np.asarray(Image.open(path), np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    pixels = np.asarray(image)
    return pixels > threshold_otsu(pixels)


def main():
    """Runs all explainers over the test split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    demo = parser.parse_args().demo
    run = open_run(demo / "run")
    test = run.dataset(demo / "data").source("test")
    images = np.stack([example["image"] for example in test])
    names = [Path(example["file"].decode()).name for example in test]
    masks = np.stack([bone(demo / "data" / "phantom" / "clean" / name, images.shape[1]) for name in names])
    label = run.logits(test).argmax(-1)
    cut = run.network.cut(run.network.last_map)
    print(f"{len(images)} test images\n\n| explainer | hits | mass on bone | chance |\n|---|---|---|---|")
    for name in EXPLAINERS.members:
        explainer = EXPLAINERS.bind(name, {}, {}, "explain.settings")
        maps = [
            np.asarray(explainer(cut, run.params, run.batch_stats, images[i : i + 4], label[i : i + 4]))
            for i in range(0, len(images), 4)
        ]
        found = pointing(np.concatenate(maps), masks)
        print(
            f"| {name} | {found.hits.mean():.2f} | {found.mass.mean():.2f} | {found.chance.mean():.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
