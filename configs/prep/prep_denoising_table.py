"""The paper's denoising table on the phantom: noise at 21.3 dB in, PSNR and SSIM out.

    osteojax prep --source=phantom --out=DATA --config=configs/prep/prep_denoising_table.py

Expect the mean over the images in DATA/denoising.json. The noise is the phantom's own, Poisson and readout, so its
variance is stabilised before BM3D; `--config.denoise.noise_model=gaussian` shows what that gains.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/prep/prep_demo.py")
    config.denoise.noise_model = "poisson"
    config.phantom.n_patients = 40
    config.phantom.images_per_patient = (1, 1)
    config.phantom.psnr_db = 21.3
    return config
