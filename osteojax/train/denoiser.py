"""What DnCNN learns from and by: patches of films, noise, and two losses; `osteojax.train.fit` does the rest."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx

from osteojax.config import AtLeastOne, Bound, NotNegative, Positive, read
from osteojax.devices.mesh import make_mesh
from osteojax.errors import UserError
from osteojax.models.dncnn import DnCNN
from osteojax.train.experiment import MeshSection, Seed
from osteojax.train.fit import Batches, Loss, fit
from osteojax.weights.dncnn import GREY_LEVEL, DnCNNFacts, write_dncnn

WEIGHTS = "dncnn.safetensors"
# What good denoisers leave of squared errors grows about as sigma, so that these count in units of it: as they are, a
# sigma of 50 would be most of what is learned. Below so many grey levels no further, or a sigma of 1 would be.
_LEAST_SIGMA = 5.0
# Noise that is not clipped makes the range of an image, as which the denoiser shows it to the network, wider by so many
# sigma.
_WIDENED = 8.0
# The step of the divergence's finite difference, where grey levels go from 0 to 1 and were rounded at 1e-7.
_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """`model.*`: see `osteojax.models.dncnn.DnCNN`."""

    depth: Annotated[int, Bound(low=2, high=64)] = 10
    width: Annotated[int, Bound(low=1, high=512)] = 32
    batch_norm: bool = False
    downsampling: Literal[1, 2, 4] = 1


@dataclasses.dataclass(frozen=True)
class DataSection:
    """`data.*`: configs/denoisers/dncnn.py has the meaning of each."""

    source: str = "phantom"
    images: Annotated[int, AtLeastOne] = 60
    image_sizes: Annotated[tuple[Annotated[int, Bound(low=32, high=4096)], ...], AtLeastOne] = (448,)
    seed: Annotated[int, NotNegative] = 20101
    batch_size: Annotated[int, AtLeastOne] = 4
    patch: Annotated[int, Bound(low=8, high=512)] = 56


@dataclasses.dataclass(frozen=True)
class DenoiserSettings:
    """The config of `osteojax train-denoiser`: configs/denoisers/dncnn.py has the meaning of each."""

    seed: Annotated[int, Seed] = 0
    steps: Annotated[int, AtLeastOne] = 6000
    loss: Literal["supervised", "sure"] = "supervised"
    sigma: tuple[Annotated[float, NotNegative], Annotated[float, Positive]] = (0.0, 55.0)
    model: ModelSection = dataclasses.field(default_factory=ModelSection)
    data: DataSection = dataclasses.field(default_factory=DataSection)
    learning_rate: Annotated[float, Positive] = 1e-3
    clip_norm: Annotated[float, Positive] = 1.0
    checkpoint_every: Annotated[int, AtLeastOne] = 500
    log_every: Annotated[int, AtLeastOne] = 50
    mesh: MeshSection = dataclasses.field(default_factory=MeshSection)


@dataclasses.dataclass(frozen=True)
class Film:
    """An image to learn from.

    Attributes:
        pixels: float32 (height, width), grey levels in [0, 1] or, with noise, about that.
        sigma: standard deviation of the noise in it, in the same units; 0 for a clean one.
    """

    pixels: np.ndarray
    sigma: float = 0.0


def read_denoiser_settings(config: ml_collections.ConfigDict) -> DenoiserSettings:
    """The settings of a config.

    Raises:
        UserError: an unknown key, a value that is not allowed, or values that do not go together.
    """
    settings = read(DenoiserSettings, config)
    low, high = settings.sigma
    if low > high:
        raise UserError(f"sigma is from low to high, and ({low:g}, {high:g}) is not; turn it round")
    patch, smallest = settings.data.patch, min(settings.data.image_sizes)
    if patch > smallest and settings.data.source == "phantom":
        raise UserError(
            f"data.patch={patch} does not fit into the smallest of data.image_sizes={settings.data.image_sizes}; "
            "choose a smaller patch"
        )
    if patch % settings.model.downsampling:
        raise UserError(
            f"data.patch={patch} is no multiple of model.downsampling={settings.model.downsampling}; choose one that is"
        )
    return settings


def train_denoiser(
    config: ml_collections.ConfigDict, films: Sequence[Film], workdir: Path, *, shared: bool = True
) -> Path:
    """Trains a DnCNN; started again on the same workdir, it goes on where it was.

    Args:
        config: as in configs/denoisers/.
        films: to learn from, the same at every start: clean ones, or noisy ones for the loss "sure".
        workdir: of the run.
        shared: whether it is one folder for all processes.

    Returns:
        The weights, `WEIGHTS` in the workdir: of inference mode, as `osteojax.weights.dncnn` reads them.

    Raises:
        UserError: the config, the films or the workdir do not fit.
    """
    settings = read_denoiser_settings(config)
    model = DnCNN(
        settings.model.depth,
        settings.model.width,
        batch_norm=settings.model.batch_norm,
        downsampling=settings.model.downsampling,
        rngs=nnx.Rngs(settings.seed),
    )
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    fit(
        model,
        LOSSES[settings.loss],
        patches_of(films, settings),
        optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(rate)),
        workdir,
        config=config,
        mesh=make_mesh(settings.mesh.data, settings.mesh.fsdp),
        steps=settings.steps,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        shared=shared,
    )
    if jax.process_index() == 0:
        write_dncnn(workdir / WEIGHTS, model.merged(), DnCNNFacts(settings.sigma, config.to_dict()))
    return workdir / WEIGHTS


def patches_of(films: Sequence[Film], settings: DenoiserSettings) -> Batches:
    """The batches of a training: squares from anywhere in a film, turned and mirrored, and the noise to learn from.

    Some are shown at less contrast about the middle, as an image is whose range is its noise's more than its own.

    A function of the settings and the step alone. Each batch has `image` (B, patch, patch, 1) and `sigma` (B,), both
    float32 and in units of the range of grey levels: the noise that is to be added to clean films, or is in noisy ones.

    Raises:
        UserError: there is no film, or a patch does not fit into one.
    """
    side, rows = settings.data.patch, settings.data.batch_size
    low, high = (level * GREY_LEVEL for level in settings.sigma)
    if not films:
        raise UserError(f"{settings.data.source} has no image to learn from; name a folder of radiographs")
    smallest = min(min(film.pixels.shape) for film in films)
    if smallest < side:
        raise UserError(
            f"data.patch={side} does not fit into an image of {settings.data.source} whose shorter side is "
            f"{smallest}; choose a smaller patch, or leave that image out"
        )

    def batch(step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([settings.seed, step])
        image = np.empty((rows, side, side, 1), np.float32)
        sigma = rng.uniform(low, high, rows).astype(np.float32)
        for row in range(rows):
            film = films[int(rng.integers(len(films)))]
            top, left = (int(rng.integers(extent - side + 1)) for extent in film.pixels.shape)
            cut = np.rot90(film.pixels[top : top + side, left : left + side], int(rng.integers(4)))
            image[row, ..., 0] = cut[:, ::-1] if rng.integers(2) else cut
            if settings.loss == "sure":
                sigma[row] = film.sigma
            contrast = rng.uniform(1 / (1 + _WIDENED * sigma[row]), 1)
            image[row] = 0.5 + contrast * (image[row] - 0.5)
            sigma[row] *= contrast
        return {"image": image, "sigma": sigma}

    return batch


def supervised(model: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
    """Squared error of the noise that is found in clean images with white Gaussian noise (Zhang et al. 2017, eq. 1)."""
    clean, sigma = batch["image"], batch["sigma"][:, None, None, None]
    noise = sigma * jax.random.normal(key, clean.shape)
    return _mean(jnp.square(model.residual(clean + noise) - noise), batch["sigma"])


def sure(model: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
    """Stein's unbiased estimate of the same error, of noisy images alone; sigma is that of the noise in them.

    Ramani et al., "Monte-Carlo SURE", IEEE TIP 17(9), 2008, eq. 7 and theorem 2: for white Gaussian noise the
    expectation of |f(y) - y|^2 - sigma^2 + 2 sigma^2 div f(y), over the pixels, is that of |f(y) - x|^2, and the
    divergence is estimated along one random direction.
    """
    noisy, variance = batch["image"], jnp.square(batch["sigma"])[:, None, None, None]
    direction = jax.random.normal(key, noisy.shape)
    residual = model.residual(noisy)
    # Of f(y) = y - residual, whose divergence is one a pixel less that of the residual.
    divergence = 1 - direction * (model.residual(noisy + _EPSILON * direction) - residual) / _EPSILON
    return _mean(jnp.square(residual) - variance + 2 * variance * divergence, batch["sigma"])


def _mean(errors: jax.Array, sigma: jax.Array) -> jax.Array:
    """The mean over images of their squared errors (B, H, W, 1) in units of sigma."""
    least = _LEAST_SIGMA * GREY_LEVEL
    return jnp.mean(errors.mean((1, 2, 3)) / (least * (sigma + least)))


LOSSES: Mapping[str, Loss] = {"supervised": supervised, "sure": sure}
