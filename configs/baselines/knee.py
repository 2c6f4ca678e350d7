"""What a network must beat on the public knee set, whose labels were made from a T-score that it gives.

    osteojax baselines --config=configs/baselines/knee.py --data_dir=FIVE --out=OUT \
        --config.settings.embedding.weights=../shared/weights/resnet50_v1.5_pqf.npz

The rows of configs/baselines/baselines.py with age and sex as columns, and two that learn the T-score and read the
class from it. docs/baselines.md has what to expect.
"""

import ml_collections

from osteojax import config as configs


def get_config() -> ml_collections.ConfigDict:
    config = configs.load("configs/baselines/baselines.py")
    config.settings.covariates.columns = ("age", "sex")
    for name, source in (("clinical", "covariates"), ("image", "embedding")):
        config.rows[f"{name}_t_score"] = {
            "sources": (source,),
            "classifier": "thresholded",
            "target": "t_score",
        }
    return config
