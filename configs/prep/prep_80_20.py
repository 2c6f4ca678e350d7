r"""As `prep.py`, split 80:20 into training and test, as the paper's result section has it.

    osteojax prep --source=FOLDER --out=DATA --config=configs/prep/prep_80_20.py
    osteojax train --config=configs/train/paper_resnet50.py --workdir=RUN --config.data.dir=DATA \
        --config.eval.split=none

There is no validation split: nothing may then be chosen by its loss, and choosing on the test set would be
leakage. `--config.split.train=0.7 --config.split.val=0.1` takes one out of the training share.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/prep/prep.py")
    config.split.update(train=0.80, val=0.0, test=0.20)
    return config
