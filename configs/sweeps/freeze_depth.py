"""How much of a pretrained ResNet-50 should learn: the head alone up to everything, and stage by stage over time.

    osteojax sweep --sweep=configs/sweeps/freeze_depth.py --out=SWEEP --source=RADIOGRAPHS

The paper freezes "the early layers" without saying which; `stage3+` is our reading of it, and the baseline here.

Cost: 58 minutes of CPU for 18 runs on 169 radiographs (command in docs/ablations.md).
Found there: no depth better than another, within intervals of twenty points.
"""

from typing import Any

from osteojax.sweep.plan import Variants

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
SEEDS = (0, 1, 2)
METRIC = "balanced_accuracy"
BASELINE = "stage3+"


def variants() -> Variants:
    for preset in ("head", "stage4", "stage3+", "stage2+", "all"):
        yield preset, {"preset": preset}
    # From the head backwards, each stage ten steps later and at half the rate.
    groups: list[dict[str, Any]] = [{"name": "head", "pattern": "head/.*"}]
    for later, stage in enumerate(("stage4", "stage3", "stage2"), start=1):
        thaw = {"unfreeze_step": 10 * later, "lr_factor": 0.5**later}
        groups.append({"name": stage, "pattern": f"{stage}/.*", **thaw})
    groups.append({"name": "frozen", "pattern": ".*", "frozen": True})
    yield "gradual", {"groups": tuple(groups)}
