"""The paper as published: ResNet-50 from ImageNet weights, early layers frozen, deeper layers and a new head tuned.

    osteojax prep --source=RADIOGRAPHS --out=DATA
    osteojax train --config=configs/train/paper_resnet50.py --workdir=RUN --config.data.dir=DATA
    osteojax evaluate --workdir=RUN

Reported: accuracy 90.2 %; F1 93.2 (healthy), 87.5 (osteopenia), 89.8 (osteoporosis), on 3,020 private
radiographs. Expect less wherever patients and copies are kept on one side of the split: see docs/results.md.

The paper names neither the optimizer nor its settings; what stands here is our choice. 30 epochs, with the best
epoch by validation loss kept (the paper's rises after epoch 8).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict
    return c(
        {
            "seed": 0,
            # imagenet: pretrained or nothing. imagenet_or_random: fall back on model.fallback, then on random weights.
            "init": "imagenet",
            # A file or a name of published weights, or the folder of a run of ours (docs/transfer.md); empty for the
            # default of the architecture.
            "weights": "",
            # Of a run's weights. head: reset, or keep the run's. allow_overlap: although it saw what is tested here.
            "transfer": c({"head": "reset", "allow_overlap": False}),
            # The config of an earlier stage, whose best checkpoint this run starts from (phantom_to_knee.py); or empty.
            "pretrain": c({}),
            # Parameters are float32 whatever the dtype of the computation. batch_norm: global or per_device statistics.
            # conv_impl: auto takes the fastest formulation of the platform; see osteojax/models/layers/conv2d.py. head:
            # softmax, or ordinal: coral, corn, t_score. attention: where blocks > 0, a transformer over the last map in
            # place of the architecture's own head. covariates: columns of the dataset that the last layer takes beside
            # the image, ('age', 'sex'); t_score: the column of one to be learned (docs/hybrid.md). dropout before the
            # last layer; stochastic_depth of the deepest block.
            "model": c(
                {
                    "name": "resnet50",
                    "fallback": "",
                    "dtype": "float32",
                    "batch_norm": "global",
                    "conv_impl": "auto",
                    "head": "softmax",
                    "attention": c({"blocks": 0, "width": 256, "heads": 8}),
                    "covariates": (),
                    "t_score": "",
                    "dropout": 0.0,
                    "stochastic_depth": 0.0,
                }
            ),
            # What learns: head, stageK, stageK+ (all later ones too), bn_affine, all. Here: all behind stage 2.
            "preset": "stage3+",
            # Instead of a preset: a tuple of {name, pattern, frozen, lr_factor, weight_decay, unfreeze_step}; the first
            # pattern that matches a parameter's path wins.
            "groups": (),
            # hold: where a split is kept once it is decoded: host, device, disk (decoded each time), or auto: host
            # where a quarter of the free memory takes it. sampling: all, or balanced (oversampled to equal classes).
            "data": c({"dir": "", "batch_size": 32, "threads": 2, "hold": "auto", "sampling": "all"}),
            # cache_prefix: compute the activations of the frozen first parts once, and train from them. cache_dtype:
            # as_computed, float32, bfloat16, float16. cache_views: augmented forms of each image, with augmentation.
            # cache_dir: empty for OSTEOJAX_CACHE/prefix. steps_per_call: at most, in powers of two, where data.hold is
            # "device".
            "train": c(
                {
                    "cache_prefix": False,
                    "cache_dtype": "as_computed",
                    "cache_views": 4,
                    "cache_dir": "",
                    "steps_per_call": 1,
                }
            ),
            # The published pipeline names no augmentation; what the numbers mean stands in docs/recipes.md.
            "augment": c(
                {
                    "flip": False,
                    # Of place: degrees, and fractions.
                    **{"rotate": 0.0, "shift": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0},
                    # Of value: fractions, blur in pixels.
                    **{"gain": 0.0, "brightness": 0.0, "contrast": 0.0, "gamma": 0.0},
                    **{"clahe": 0.0, "poisson": 0.0, "blur": 0.0},
                    # Of what is seen: probabilities, collimate a fraction of the side.
                    **{"collimate": 0.0, "marker": 0.0, "erase": 0.0},
                    # RandAugment: how many of them an image gets (0: all that are on), and how strong they are.
                    **{"rand_count": 0, "rand_magnitude": 0.5},
                }
            ),
            # Rows mixed in pairs: alpha of the Beta distribution of the shares; 0 is off.
            "mix": c({"mixup": 0.0, "cutmix": 0.0}),
            # name: of osteojax/train/losses. class_weights: none, balanced (inverse to the frequency) or effective (to
            # the effective number of examples, of that beta). t_score_weight: of a T-score's loss beside the class's.
            # settings: of the loss, such as gamma of focal.
            "loss": c(
                {
                    "name": "cross_entropy",
                    "label_smoothing": 0.0,
                    "class_weights": "none",
                    "beta": 0.999,
                    "t_score_weight": 1.0,
                    "settings": c({}),
                }
            ),
            # name and schedule: of osteojax/train/{optimizers,schedules}; settings and schedule_settings as above.
            # ema_decay: of the moving average that is evaluated, warmed up; 0 keeps none. clip_norm: 0 for none.
            # accumulate: parts that a batch is taken in. sam_rho: of sharpness-aware minimisation; 0 for none.
            # recalibrate: training batches that the average takes its statistics from before each validation; 0: none.
            "optimizer": c(
                {
                    "name": "adamw",
                    "learning_rate": 1e-4,
                    "schedule": "cosine",
                    "warmup_steps": 0,
                    "weight_decay": 1e-4,
                    "clip_norm": 1.0,
                    "ema_decay": 0.0,
                    "accumulate": 1,
                    "sam_rho": 0.0,
                    "recalibrate": 0,
                    "b1": 0.9,
                    "b2": 0.999,
                    "eps": 1e-8,
                    "momentum": 0.9,
                    "nesterov": False,
                    "settings": c({}),
                    "schedule_settings": c({}),
                }
            ),
            # Of a dataset of folds, the one that is tested; the next one validates. -1: it has splits of its own.
            "fold": -1,
            # The deal that the fold is of, where they were dealt several times; another fold to validate than the next.
            "repeat": 0,
            "val_fold": -1,
            "epochs": 30.0,
            # split "none" trains without validation, for a dataset that has none.
            "eval": c({"split": "val", "batch_size": 32, "every_steps": 0}),
            # metric: any scalar metric of osteojax/metrics. mode: max, min, or auto for the metric's own direction.
            # patience in evaluations; 0 never stops early.
            "best": c({"metric": "cross_entropy", "mode": "auto", "patience": 0}),
            "checkpoint": c({"every_steps": 0, "keep": 2}),
            "mesh": c({"data": -1, "fsdp": 1}),
            "log_every": 10,
        }
    )
