"""The learning rate, which the paper does not name, over two orders of magnitude.

    osteojax sweep --sweep=configs/sweeps/learning_rate.py --out=SWEEP --source=RADIOGRAPHS

Choose by validation, not by this table of the test split: a rate chosen there is a result of the test set.

Not run on public data yet: cost and finding are open.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "1e-4"


def variants() -> Variants:
    for rate in ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3"):
        yield rate, {"optimizer.learning_rate": float(rate)}
