"""Cortical thickness beside texture and clinical columns; the data are prepared with a map of the bones.

    osteojax prep --source=RADIOGRAPHS --out=MAPPED --config.region.how=channel --config.split.folds=5
    osteojax baselines --config=configs/baselines/cortex.py --data_dir=MAPPED --out=OUT \\
        --config.settings.covariates.columns="('age', 'sex')"

Where no knee is found the thickness is missing, which the classifiers are told. docs/baselines.md has what to expect.
"""

import ml_collections

from osteojax import config as configs


def get_config() -> ml_collections.ConfigDict:
    config = configs.load("configs/baselines/baselines.py")
    rows = {
        "cortex": ("cortex",),
        "cortex_texture": ("cortex", "texture"),
        "cortex_hybrid": ("cortex", "covariates"),
    }
    kept = {name: config.rows[name].to_dict() for name in ("clinical", "texture")}
    config.rows = {**kept, **{n: {"sources": s, "classifier": "logistic"} for n, s in rows.items()}}
    return config
