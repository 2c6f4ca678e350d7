"""Which loss suits classes that are uneven and in order: three recipes for stage 4 of a pretrained ResNet-50.

    osteojax sweep --sweep=configs/sweeps/recipes.py --out=SWEEP --source=RADIOGRAPHS --folds=5

Cross-entropy and the focal loss weigh classes, CORAL knows their order and weighs nothing. All train from the cached
prefix, on four views of each image.

Cost: 49 minutes of CPU for one seed on 169 radiographs over five folds (command in docs/recipes.md).
Found there: none is told from chance. On phantoms CORAL never answers the middle class, the others are equal.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "cross_entropy"


def variants() -> Variants:
    common = {
        "preset": "stage4",
        "train.cache_prefix": True,
        "epochs": 8.0,
        "optimizer.learning_rate": 5e-4,
        "data.batch_size": 16,
        "augment.flip": True,
        "best.metric": "balanced_accuracy",
        "best.mode": "max",
    }
    yield "cross_entropy", {**common, "loss.class_weights": "balanced"}
    yield "focal", {**common, "loss.name": "focal", "loss.class_weights": "effective"}
    yield "coral", {**common, "loss.name": "coral", "model.head": "coral"}
