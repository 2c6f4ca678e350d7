"""The demo's data: a small phantom, denoised and split by patient.

    osteojax prep --source=phantom --out=DATA --config=configs/prep/prep_demo.py

Expect the mean PSNR and SSIM before and after denoising in DATA/denoising.json: the phantom knows the truth.
"""

from ml_collections import ConfigDict

from osteojax import config as configs


def get_config() -> ConfigDict:
    config = configs.load("configs/prep/prep.py")
    # The phantom's noise is white, though its trabeculae raise the warning `correlated` in some images.
    config.denoise.when = "always"
    config.phantom.seed = 0
    config.phantom.n_patients = 280
    config.phantom.images_per_patient = (1, 2)
    config.phantom.image_size = (448, 448)
    config.audit.near_duplicates = False  # the phantom has none, and looking for them takes time
    return config
