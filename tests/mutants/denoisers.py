"""Faults of the denoisers beside BM3D, and of the training of one."""

from tests.mutants.mutant import Mutant

_CLASSICAL = ("tests/data_prep/denoise/test_classical.py",)
_APPLIED = ("tests/data_prep/denoise/test_dncnn.py",)
_NETWORK = ("tests/osteojax/models/test_dncnn.py",)
_WEIGHTS = ("tests/osteojax/weights/test_weights_dncnn.py",)
_TRAINING = ("tests/osteojax/train/test_denoiser.py",)
_FILMS = ("tests/data_prep/test_training_films.py",)

DENOISERS = (
    Mutant(
        "denoisers: the middle of the range is not put back",
        "data_prep/denoise/unit_noise.py",
        "return (clean * sigma + middle).astype(np.float32)",
        "return (clean * sigma).astype(np.float32)",
        _CLASSICAL,
    ),
    Mutant(
        "denoisers: small images are not padded",
        "data_prep/denoise/unit_noise.py",
        "_SMALLEST = 32",
        "_SMALLEST = 0",
        _CLASSICAL,
    ),
    Mutant(
        "denoisers: no noise is some noise",
        "data_prep/denoise/unit_noise.py",
        "sigma <= _NEGLIGIBLE_SIGMA * (high - low)",
        "sigma < 0",
        _CLASSICAL,
    ),
    Mutant(
        "non-local means: distances keep the noise's share",
        "data_prep/denoise/non_local_means.py",
        "            sigma=1.0,\n",
        "            sigma=0.0,\n",
        _CLASSICAL,
    ),
    Mutant(
        "wavelets: noise of low frequencies stays",
        "data_prep/denoise/wavelet.py",
        "levels = pywt.dwtn_max_level(z.shape, settings.wavelet)",
        "levels = 2",
        _CLASSICAL,
    ),
    Mutant(
        "total variation: the strength is not looked at",
        "data_prep/denoise/total_variation.py",
        "weight=settings.strength",
        "weight=1.0",
        _CLASSICAL,
    ),
    Mutant(
        "DnCNN: the noise is not subtracted",
        "osteojax/models/dncnn.py",
        "return x - self.residual(x)",
        "return self.residual(x)",
        _NETWORK,
    ),
    Mutant(
        "DnCNN: batch norm is merged without its offset",
        "osteojax/models/dncnn.py",
        "own.kernel[...] * factor, offset\n",
        "own.kernel[...] * factor, 0 * offset\n",
        _NETWORK,
    ),
    Mutant(
        "DnCNN: the last layer begins as the others do",
        "osteojax/models/dncnn.py",
        "last.kernel[...] *= math.sqrt(shown / (2 * width))",
        "last.kernel[...] *= math.sqrt(1)",
        _NETWORK,
    ),
    Mutant(
        "DnCNN: tiles see too little around them",
        "data_prep/denoise/dncnn.py",
        "around=network.reach)",
        "around=network.reach // 2)",
        _APPLIED,
    ),
    Mutant(
        "DnCNN: more noise than it knows is shown to it",
        "data_prep/denoise/dncnn.py",
        "scale = max(span, sigma / network.most_noise)",
        "scale = span",
        _APPLIED,
    ),
    Mutant(
        "DnCNN: a pixel is changed by anything",
        "data_prep/denoise/dncnn.py",
        "_MOST_CHANGE = 3.0",
        "_MOST_CHANGE = 300.0",
        _APPLIED,
    ),
    Mutant(
        "bounded BM3D: blocks of other regions are near",
        "data_prep/denoise/bm3d/numba_backend.py",
        "x // step] = _OUTSIDE",
        "x // step] += 0",
        ("tests/data_prep/denoise/test_bounded.py",),
    ),
    Mutant(
        "train-denoiser: contrast is never less",
        "osteojax/train/denoiser.py",
        "contrast = rng.uniform(1 / (1 + _WIDENED * sigma[row]), 1)",
        "contrast = 1.0",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: no size of image is a size",
        "osteojax/train/denoiser.py",
        "image_sizes: Annotated[tuple[Annotated[int, Bound(low=32, high=4096)], ...], AtLeastOne]",
        "image_sizes: Annotated[tuple[Annotated[int, Bound(low=32, high=4096)], ...], NotNegative]",
        _TRAINING,
    ),
    Mutant(
        "DnCNN: the record has no hash of the weights",
        "data_prep/denoise/dncnn.py",
        'object.__setattr__(self, "sha256", sha256_of(self.path))',
        "sha256_of(self.path)",
        _APPLIED,
    ),
    Mutant(
        "DnCNN: any file of that name will do",
        "osteojax/weights/dncnn.py",
        "    if found != sha256:\n",
        "    if not found:\n",
        _WEIGHTS + _APPLIED,
    ),
    Mutant(
        "DnCNN: weights that are no numbers are taken",
        "osteojax/weights/dncnn.py",
        "if not np.isfinite(values).all():",
        "if not values.size:",
        _WEIGHTS,
    ),
    Mutant(
        "DnCNN: KAIR's kernels are not turned",
        "osteojax/weights/dncnn.py",
        "layout=(2, 3, 1, 0)",
        "layout=(3, 2, 1, 0)",
        _WEIGHTS,
    ),
    Mutant(
        "train-denoiser: every step has the same patches",
        "osteojax/train/denoiser.py",
        "np.random.default_rng([settings.seed, step])",
        "np.random.default_rng([settings.seed, 0])",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: patches are never mirrored",
        "osteojax/train/denoiser.py",
        "cut[:, ::-1] if rng.integers(2) else cut",
        "cut if rng.integers(2) else cut",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: SURE counts the divergence once",
        "osteojax/train/denoiser.py",
        "2 * variance * divergence",
        "variance * divergence",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: SURE forgets the variance",
        "osteojax/train/denoiser.py",
        "jnp.square(residual) - variance + 2",
        "jnp.square(residual) + 2",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: SURE is told another sigma than the film's",
        "osteojax/train/denoiser.py",
        "sigma[row] = film.sigma",
        "sigma[row] = sigma[0]",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: a strong noise weighs most",
        "osteojax/train/denoiser.py",
        "/ (least * (sigma + least)))",
        "/ (least * least))",
        _TRAINING,
    ),
    Mutant(
        "train-denoiser: noisy phantoms are made of clean ones anew",
        "osteojax/cli/train_denoiser.py",
        "rng = np.random.default_rng(data.seed)",
        "rng = np.random.default_rng()",
        _FILMS,
    ),
)
