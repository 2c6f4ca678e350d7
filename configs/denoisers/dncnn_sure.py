"""A small DnCNN for any sigma up to 55, from noisy images alone: Stein's unbiased risk estimate is its loss.

    osteojax train-denoiser --config=configs/denoisers/dncnn_sure.py --workdir=W --config.data.source=RADIOGRAPHS

For where no clean image exists; the sigma of each radiograph is estimated, so that its noise has to be white. Without a
source it learns from noisy phantoms, and with --config.loss=supervised from clean ones, to see what is lost:
docs/denoisers.md has both.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/denoisers/dncnn.py")
    config.loss = "sure"
    config.steps = 1000
    config.model.update(depth=6, width=16, downsampling=1)
    # The estimate of the risk scatters more than the risk: larger batches than with clean images.
    config.data.update(batch_size=16, patch=48, images=60, image_sizes=(448,))
    config.learning_rate = 2e-3
    return config
