"""What ImageNet weights are worth here: the same network from them and from random numbers.

    osteojax sweep --sweep=configs/sweeps/init.py --out=SWEEP --source=RADIOGRAPHS

Random weights learn nothing behind frozen layers, so all layers learn in both.

Cost: 40 minutes of CPU for 6 runs on 169 radiographs (command in docs/ablations.md).
Found there: no difference beyond the intervals, and neither far from chance.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "imagenet"


def variants() -> Variants:
    yield "imagenet", {"init": "imagenet", "preset": "all"}
    yield "random", {"init": "random", "weights": "", "preset": "all"}
