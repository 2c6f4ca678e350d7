"""Preparation of a data set, as the paper describes it: BM3D, 224x224, [0, 1], split 70/15/15 by patient.

    osteojax prep --source=FOLDER --out=DATA --config=configs/prep/prep.py

Expect DATA to open with `tfds.builder_from_directory`, with manifest.csv, quarantine.csv, audit.json and
report.html beside the shards.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # Ordered; a label that is neither here nor an alias is quarantined. Case does not matter.
    config.class_names = ("healthy", "osteopenia", "osteoporosis")
    config.class_aliases = {"normal": "healthy"}

    config.denoise = ConfigDict()
    config.denoise.name = "bm3d"  # bm3d, dncnn, nl_means, wavelet, total_variation, none: docs/denoisers.md
    config.denoise.backend = "numba"  # what computes BM3D: numba, jax, or package (the closed reference)
    config.denoise.profile = "fast"  # of BM3D: fast, faster, np (the paper's parameters), or bounded
    config.denoise.settings = ConfigDict()  # of other denoisers: --config.denoise.settings="{'size': 3}"
    # Grey levels of a range of 255, scaled to the file's full range; None estimates it for each image. More than the
    # noise that is there makes bone waxy.
    config.denoise.sigma = placeholder(float)
    # What is denoised by an estimate: noise that is "known" to be noise (docs/real_films.md), or "always", whatever the
    # estimate is worth.
    config.denoise.when = "known"
    # gaussian, or poisson for raw detector data: fitted to each image, its variance stabilised.
    config.denoise.noise_model = "gaussian"
    config.denoise.at = "native"  # resolution, as in the paper; resized denoises the small image

    config.image_size = 224
    config.aspect = "squash"  # as in the paper; letterbox keeps the aspect ratio and pads

    # The region of interest (docs/region.md): none, crop to the joint, mask all but femur, tibia and joint space, or a
    # map of them as a second channel.
    config.region = ConfigDict({"how": "none"})
    config.region.weights = ""  # of `osteojax train-segmenter`; "" for those that the package ships

    # Shares of the images, in each class. A patient, and identical pixels, are never divided.
    config.split = ConfigDict({"train": 0.70, "val": 0.15, "test": 0.15})
    # Instead of them, so many equal folds for cross-validation: training says which one is tested (--config.fold).
    config.split.folds = 0
    config.split.repeats = (
        1  # the folds are dealt so many times (--config.repeat says which deal a training is of)
    )
    # What stays whole, beside patients and copies: the values of a column (site, scanner, ...). "image" leaks.
    config.split.by = "patient"
    config.split.test_values = ()  # of that column: external validation, ('hospital B',)
    config.split.after = ""  # of a column of dates: temporal validation, 2019-06-30; the dates become years
    config.split.stratify = ("label",)  # and columns: ('label', 'site'); numbers at their quartiles
    config.split.file = ""  # a table of file (or id, or patient_id) and split, which is verified
    # Take a given split, or split.by=image, that leaks; all that is made from it is marked (--allow_leaky_split).
    config.split.allow_leaky = False
    # Identical pixels under contradictory labels can neither be learned nor scored: quarantine, or keep.
    config.conflicts = "quarantine"
    # Identical pixels under one label would count twice: drop all but the first, or keep.
    config.duplicates = "drop"

    # Near copies (crops, mirror images, rescaled) join groups; the search takes time in proportion to the number of
    # images. Shortcuts: how well file size, border, age and the like predict the label by themselves.
    config.audit = ConfigDict({"near_duplicates": True, "shortcuts": True})

    # The run stops when more than this share of the files cannot be used.
    config.quarantine = ConfigDict({"max_fraction": 0.1})
    config.limits = ConfigDict({"max_pixels": 100_000_000, "max_bytes": 512 * 2**20, "min_side": 32})
    # A file that takes longer is ended and left out; kept by worker processes, so not where workers=0.
    config.limits.seconds = 600.0
    # DICOM modalities that are taken; "SC" lets secondary captures in.
    config.limits.modalities = ("CR", "DX", "DR", "RG", "XR", "RF", "PX", "IO", "MG")

    # Names of files stand in manifest, shards and report as they are; "hash" puts a number of its own for each.
    config.privacy = ConfigDict({"file_names": "keep"})
    config.privacy.patient_ids = "keep"  # likewise of patients: "hash"
    # Holds the key of all pseudonyms ("" for OSTEOJAX_PRIVACY_KEY, or a random key of this run alone). Never stored.
    config.privacy.key_file = ""
    # Writing burned into the picture: ignore, flag (a note and a warning), mask (filled), or quarantine the image.
    config.privacy.burned_in = "flag"

    config.workers = -1  # processes; -1: one a core, 0: none, all in this process
    config.overwrite = False  # replace a finished data set at --out

    # For --source=phantom: the fields of data_prep.phantom.PhantomConfig, which documents them.
    config.phantom = ConfigDict()
    config.phantom.n_patients = 150
    config.phantom.images_per_patient = (1, 3)
    config.phantom.image_size = (448, 448)
    config.phantom.bit_depth = 8
    config.phantom.quanta = 150.0
    config.phantom.psnr_db = placeholder(float)
    config.phantom.class_balance = (1200, 950, 870)
    config.phantom.seed = 0
    return config
