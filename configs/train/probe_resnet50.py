"""A linear probe of ResNet-50: its ImageNet features as they are, and logistic regression on them.

    osteojax probe --workdir=RUN --data_dir=DATA
    osteojax evaluate --workdir=RUN

The paper's config in which the head alone learns; docs/training.md has what a probe makes of it.
"""

import ml_collections

from osteojax import config as configs


def get_config() -> ml_collections.ConfigDict:
    config = configs.load("configs/train/paper_resnet50.py")
    config.preset = "head"
    return config
