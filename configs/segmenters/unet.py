"""The U-Net that finds femur, tibia and joint space: learned from phantom legs, of which no two films are alike.

    osteojax train-segmenter --config=configs/segmenters/unet.py --workdir=RUN

Expect RUN/unet.safetensors, for `osteojax prep --config.region.weights=RUN/unet.safetensors`. The weights that
the package ships went on from this config as it is: configs/segmenters/unet_continued.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # weights to go on from; "" for random ones
    config.legs = 96  # phantom legs; every film shows one of them, or both of its kind
    config.steps = 1200
    config.batch_size = 8  # films a step, drawn anew for each
    config.learning_rate = 2e-3  # of AdamW, at the top of its warm-up; it falls along a half cosine
    config.warmup_steps = 100
    config.weight_decay = 1e-4
    config.dice = 1.0  # weight of the Dice term beside cross-entropy
    config.checkpoint_every = 200
    config.log_every = 50
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    return config
