"""The paper's recipe, and ours with one ingredient more at a time: which of them matters.

    osteojax sweep --sweep=configs/sweeps/paper_vs_best.py --out=SWEEP --source=RADIOGRAPHS

`best` is what we would start with, chosen by no test split: it has augmentation, class weights, an average of the
parameters that is evaluated, and validation that counts classes alike. Each row before it leaves the rest out.

Cost: 19 minutes of CPU for one seed of frozen features on 418 phantoms over five folds (command in docs/ablations.md).
Found there: `best` perhaps four points better on denoised phantoms, five worse on noisy ones, no difference on knees.
"""

from typing import Any

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "paper"

_INGREDIENTS: dict[str, dict[str, Any]] = {
    "validation": {"best.metric": "balanced_accuracy"},
    "augmentation": {"augment.flip": True, "augment.rotate": 5.0, "augment.shift": 0.05, "augment.gain": 0.1},
    "class weights": {"loss.class_weights": "balanced"},
    "average": {"optimizer.ema_decay": 0.99},
}


def variants() -> Variants:
    yield "paper", {}
    so_far: dict[str, Any] = {}
    for name, ingredient in _INGREDIENTS.items():
        so_far |= ingredient
        last = name == list(_INGREDIENTS)[-1]
        yield "best" if last else f"+ {name}", dict(so_far)
