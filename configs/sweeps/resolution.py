"""Side of the input in pixels: the paper's 224, and what finer trabeculae need.

    osteojax sweep --sweep=configs/sweeps/resolution.py --out=SWEEP --source=RADIOGRAPHS

The cost of a step grows with the square of the side.

Not run on public data yet: cost and finding are open.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "224"


def variants() -> Variants:
    for side in (224, 320, 448):
        yield str(side), {"prep.image_size": side}
