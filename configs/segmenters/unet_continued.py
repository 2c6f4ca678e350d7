r"""The U-Net of configs/segmenters/unet.py, trained on with other phantom legs and little of the Dice term.

    osteojax train-segmenter --config=configs/segmenters/unet_continued.py --workdir=RUN \
        --config.init=FIRST/unet.safetensors

FIRST is a run of configs/segmenters/unet.py. The Dice term finds the joint space, which is small, and then makes it
too large: a pixel that may be joint space or bone is called joint space. Expect RUN/unet.safetensors, as the package
ships it.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/segmenters/unet.py")
    config.seed = 1
    config.steps = 600
    config.learning_rate = 1e-3
    config.warmup_steps = 50
    config.dice = 0.2
    return config
