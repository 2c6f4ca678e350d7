"""What age and sex add to the image, trained together (Nagra et al. 2020's kind, docs/hybrid.md).

    osteojax sweep --sweep=configs/sweeps/hybrid.py --out=SWEEP --source=RADIOGRAPHS

The source must have the columns `age` and `sex`. What they say without an image is the row `clinical` of
`osteojax baselines` on the same folds: a hybrid that does no better than that has learned nothing from the image.

Cost: 3 minutes of CPU for one seed of frozen features on 418 phantoms over five folds (command in docs/ablations.md).
Found there: nothing on phantoms, whose classes do not depend on age; on knees more than the image, far less than age.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "image"


def variants() -> Variants:
    yield "image", {"model.covariates": ()}
    yield "hybrid", {"model.covariates": ("age", "sex")}
