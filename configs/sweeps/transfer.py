"""What a network that has learned something else first is worth on few radiographs: docs/transfer.md has the commands.

    osteojax sweep --sweep=configs/sweeps/transfer.py --out=SWEEP --data_dir=KNEE

The runs in PRETRAINED/, beside which the command is started, are made before: `phantom` learned the phantom's classes,
`simsiam` the training images of KNEE without their labels. One seed each.

Found with the first two seeds: no difference of balanced accuracy beyond the intervals. Cost: docs/transfer.md.
"""

import ml_collections

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/phantom_to_knee.py"
PREP = "configs/prep/prep_50_15_35.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "random"


def variants() -> Variants:
    alone = {"pretrain": ml_collections.ConfigDict(), "epochs": 10.0}
    yield "random", {**alone, "init": "random"}
    for name in ("phantom", "simsiam"):
        yield name, {**alone, "weights": f"PRETRAINED/{name}"}
