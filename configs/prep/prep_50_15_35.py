"""As `configs/prep/prep.py`, but a third of the patients are tested on: for comparisons on a small collection.

    osteojax sweep --sweep=configs/sweeps/freeze_depth.py --prep=configs/prep/prep_50_15_35.py ...

Of 169 radiographs 15 % are 24, which tell no two networks apart. What is learned from half of them is worse than what
is learned from 70 %; an ablation asks which is better. Denoising is steered by whatever sigma is estimated
(`denoise.when`), or a comparison of denoisers would compare films that are left alone.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/prep/prep.py")
    config.split.update(train=0.50, val=0.15, test=0.35)
    config.denoise.when = "always"  # as when the tables of docs/ablations.md were made
    return config
