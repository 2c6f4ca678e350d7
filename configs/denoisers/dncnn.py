"""DnCNN for any sigma up to 55 (DnCNN-B), from phantoms without noise; what the package ships was trained with this.

    osteojax train-denoiser --config=configs/denoisers/dncnn.py --workdir=W
    osteojax prep --config.denoise.name=dncnn --config.denoise.settings="{'weights': 'W/dncnn.safetensors'}" ...

Ten layers of 48 channels at half the resolution where the paper has 20 of 64 at the whole, and no batch norm, so that
it trains on one CPU core; with --config.model.depth=20 --config.model.width=64 --config.model.batch_norm=True
--config.model.downsampling=1 --config.data.batch_size=128 --config.data.patch=50 it is the paper's.
docs/denoisers.md has what it reaches and what it costs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 11000
    # supervised: the images are clean. sure: they are noisy, with a sigma that is known, and nothing else is there.
    config.loss = "supervised"
    # Noise, in grey levels of a range of 255: from the first to the second, uniformly. (25.0, 25.0) is DnCNN-S.
    config.sigma = (0.0, 55.0)

    # downsampling: side of the squares of pixels that the convolutions see as channels, as in FFDNet; 1 has none.
    config.model = ConfigDict({"depth": 10, "width": 48, "batch_norm": False, "downsampling": 2})

    config.data = ConfigDict()
    config.data.source = (
        "phantom"  # or a folder of radiographs, taken as clean once they are reduced to image_sizes
    )
    config.data.images = 90  # phantoms; of a folder, the first so many by name
    # In turn: a network that has seen an anatomy at one size of pixels does not know it at another.
    config.data.image_sizes = (224, 320, 448)
    config.data.seed = (
        20101  # of the phantoms; no dataset of phantoms here has it, so that those test what is learned
    )
    config.data.batch_size = 4
    config.data.patch = 96  # side in pixels of what is cut out of an image

    config.learning_rate = 1e-3  # of Adam, along a half cosine to 0
    config.clip_norm = 1.0  # of the gradient
    config.checkpoint_every = 500
    config.log_every = 50
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    return config
