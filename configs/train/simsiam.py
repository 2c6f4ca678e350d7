"""Self-supervised pre-training: SimSiam on the training images of a prepared dataset, whose labels are not read.

    osteojax train --config=configs/train/simsiam.py --workdir=PRETRAINED --config.data.dir=DATA
    osteojax train --config=configs/train/paper_resnet50.py --workdir=RUN --config.data.dir=KNEE_DATA \
        --config.model.name=resnet18 --config.weights=PRETRAINED

Or as the first stage of one command, `config.pretrain` (phantom_to_knee.py). Watch `train/embedding_std`: where it
falls far below `train/healthy_std`, 1 / sqrt(d), the embeddings of all images have become one, and the run says so.

Chen and He 2021, section 3: SGD at 0.05 * batch / 256, momentum 0.9, weight decay 1e-4, cosine. Their random crops are
shift and scale here, and a flip is one of left and right. Expect what docs/transfer.md has.
"""

import ml_collections

from osteojax import config as configs


def get_config() -> ml_collections.ConfigDict:
    config = configs.load("configs/train/paper_resnet50.py")
    config.update(init="random", preset="all", epochs=100.0)
    config.model.update(name="resnet18", head="simsiam")
    config.data.batch_size = 64
    config.optimizer.update(name="sgd", learning_rate=0.05 * 64 / 256, weight_decay=1e-4, clip_norm=0.0)
    config.augment.update(flip=True, rotate=10.0, shift=0.15, scale=0.3)
    config.augment.update(gain=0.3, brightness=0.1, contrast=0.3, gamma=0.3, blur=1.0)
    # Nothing can be validated without labels: the last checkpoint counts.
    config.eval.split = "none"
    return config
