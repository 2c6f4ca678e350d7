"""The paper's ResNet-50 beside smaller, larger and other architectures, each with its own ImageNet weights.

    osteojax sweep --sweep=configs/sweeps/backbone.py --out=SWEEP --source=RADIOGRAPHS

All that `osteojax models` lists with published weights. They are fetched; without a network name those that are at hand
in a sweep file of your own.

Not run as it stands: no network was there. Two of its backbones on phantoms, knees and spines: docs/ablations.md.
"""

from osteojax import models
from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "resnet50"


def variants() -> Variants:
    for name, entry in models.ARCHITECTURES.members.items():
        if entry.classifies and entry.weights is not None:
            yield name, {"model.name": name}
