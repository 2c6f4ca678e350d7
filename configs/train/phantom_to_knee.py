"""Two stages as one command: a network learns the phantom, whose labels are exact, and goes on with radiographs.

    osteojax prep  --source=phantom --out=PHANTOM --config.phantom.n_patients=600
    osteojax prep  --source=KNEE --out=KNEE_DATA
    osteojax train --config=configs/train/phantom_to_knee.py --workdir=RUN \
        --config.pretrain.data.dir=PHANTOM --config.data.dir=KNEE_DATA

The first stage lies in RUN/stage1, the second in RUN, which evaluate, predict and report open as any run. Killed and
started again, it goes on in the stage where it was.

Expect little: see docs/transfer.md for what it brings on the public knee set.
"""

import ml_collections

from osteojax import config as configs


def get_config() -> ml_collections.ConfigDict:
    config = configs.load("configs/train/paper_resnet50.py")
    config.model.name = "resnet18"
    config.preset = "all"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 10
    config.augment.update(flip=True, rotate=5.0, shift=0.05, gain=0.1)
    config.best.metric = "balanced_accuracy"
    config.pretrain = configs.load("configs/train/paper_resnet50.py")
    config.pretrain.update(init="random", preset="all", epochs=15.0)
    for section in ("model", "optimizer", "augment", "best"):
        config.pretrain[section].update(config[section])
    return config
