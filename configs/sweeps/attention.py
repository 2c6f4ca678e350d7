"""Does a transformer over the last map do better than its mean (Yamamoto et al. 2024's kind, docs/models.md)?

    osteojax sweep --sweep=configs/sweeps/attention.py --out=SWEEP --source=RADIOGRAPHS

`pooling` is the architecture's own head, `attention` one encoder block and a mean weighted by a learned query.

Cost: 8 minutes of CPU for one seed of frozen features on 418 phantoms over five folds (command in docs/ablations.md).
Found there, and on the public knees and spines: no difference.
"""

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "pooling"


def variants() -> Variants:
    yield "pooling", {"model.attention.blocks": 0}
    yield "attention", {"model.attention.blocks": 1}
