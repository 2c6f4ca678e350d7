"""How fast, how deep and how hard to hold back when a pretrained ResNet-50 is fine-tuned on few radiographs.

    osteojax sweep --sweep=configs/searches/fine_tuning.py --trials=20 --out=SEARCH --source=RADIOGRAPHS

With `--folds=5` each fold that is tested has a search of its own, which never sees it.

Not run on public data yet: cost and finding are open.
"""

from collections.abc import Mapping

from osteojax.sweep.space import Choice, Range, choice, log_uniform, uniform

TRAIN = "configs/train/paper_resnet50.py"
PREP = "configs/prep/prep.py"
METRIC = "balanced_accuracy"


def space() -> Mapping[str, Choice | Range]:
    return {
        "optimizer.learning_rate": log_uniform(1e-5, 3e-3),
        "optimizer.weight_decay": log_uniform(1e-6, 1e-1),
        "preset": choice("head", "stage4", "stage3+"),
        "loss.label_smoothing": uniform(0.0, 0.2),
        "loss.class_weights": choice("none", "balanced"),
    }
