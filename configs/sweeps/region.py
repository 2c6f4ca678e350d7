"""Does the region of interest help: the whole film, the joint cut out, the rest darkened, or a map of it beside.

    osteojax sweep --sweep=configs/sweeps/region.py --out=SWEEP --source=RADIOGRAPHS

Each variant prepares the radiographs anew and trains on the result; splits are the same, since they do not depend on
the region. Films whose joint is not found go on as they are, in every variant; the manifest counts them.

Cost: 24 minutes of CPU with frozen features over five folds of the public knees (command in docs/region.md).
Found there, and on phantoms: no difference.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "none"


def variants() -> Variants:
    for how in ("none", "crop", "mask", "channel"):
        yield how, {"prep.region.how": how}
