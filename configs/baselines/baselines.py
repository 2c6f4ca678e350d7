"""What a network must beat: clinical columns, trabecular texture, a frozen network's features, and what they add.

    osteojax baselines --data_dir=DATA --out=OUT \
        --config.settings.covariates.columns="('age','sex')" --config.settings.embedding.weights=WEIGHTS

"clinical" columns alone come first: where age predicts the label, an image must add to age. "hybrid" is image and
columns together. Name no column that the labels were made from, such as a T-score.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.rows = {
        "clinical": {"sources": ("covariates",), "classifier": "logistic"},
        "clinical_boosted": {"sources": ("covariates",), "classifier": "boosting"},
        "texture": {"sources": ("texture",), "classifier": "logistic"},
        "image": {"sources": ("embedding",), "classifier": "logistic"},
        "hybrid": {"sources": ("embedding", "covariates"), "classifier": "logistic"},
        "texture_hybrid": {"sources": ("texture", "covariates"), "classifier": "logistic"},
    }
    # With labels that were made from a T-score, add a row that learns the score and reads the class from it:
    # "t_score": {"sources": ("embedding",), "classifier": "thresholded", "target": "t_score"}
    config.baseline = "clinical"
    config.metric = "balanced_accuracy"
    config.balanced = True  # classes count alike
    config.inner_folds = 5
    config.seed = 0
    config.settings = {
        "covariates": {"columns": ()},  # all that the dataset has
        "texture": {"grid": 2},
        "embedding": {"config": "configs/train/probe_resnet50.py", "weights": "", "init": ""},
    }
    return config
