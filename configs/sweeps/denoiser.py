"""Does denoising help the diagnosis: none, BM3D and DnCNN at three exposures of the phantom.

    osteojax sweep --sweep=configs/sweeps/denoiser.py --out=SWEEP --source=phantom

600 patients, 210 of them in the test, the same in all variants; 30, 150 and 600 are the detected quanta a pixel behind
the bone, the second the phantom's usual ones. The table compares with no denoising at 150 quanta. What denoising does
at another exposure is a comparison of two of its runs:

    osteojax compare "SWEEP/runs/none 30/seed0" "SWEEP/runs/dncnn 30/seed0"

Cost: 58 minutes of CPU with frozen features (command in docs/denoisers.md).
Found there: BM3D perhaps four points at 150 quanta; nothing at 30 and 600, nor of DnCNN.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/demo.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "none 150"

PHANTOM = {
    "prep.phantom.n_patients": 600,
    "prep.phantom.images_per_patient": (1, 1),
    "prep.split.train": 0.5,
    "prep.split.val": 0.15,
    "prep.split.test": 0.35,
    # Always: by default films whose noise is not known are left alone, and there would be nothing to compare.
    "prep.denoise.when": "always",
    "prep.audit.near_duplicates": False,  # the phantom has none, and looking for them takes time
}


def variants() -> Variants:
    for quanta in (30.0, 150.0, 600.0):
        for name in ("none", "bm3d", "dncnn"):
            yield f"{name} {quanta:g}", {**PHANTOM, "prep.denoise.name": name, "prep.phantom.quanta": quanta}
