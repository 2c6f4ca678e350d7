"""Does denoising help the diagnosis: none, BM3D in its fast and in the paper's profile, before and after resizing.

    osteojax sweep --sweep=configs/sweeps/denoise.py --out=SWEEP --source=RADIOGRAPHS

Each variant prepares the radiographs anew and trains on the result; splits are the same, since they do not depend on
the denoiser.

Cost: 41 minutes of CPU for 15 runs on 169 radiographs (command in docs/ablations.md).
Found there: next to no change, on JPEG files of little noise.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "none"


def variants() -> Variants:
    yield "none", {"prep.denoise.name": "none"}
    for profile in ("fast", "np"):
        for at in ("native", "resized"):
            # Always: by default films whose noise is not known are left alone, and there would be nothing to compare.
            prep = {"prep.denoise.profile": profile, "prep.denoise.at": at, "prep.denoise.when": "always"}
            yield f"bm3d {profile} {at}", prep
