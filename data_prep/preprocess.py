"""The one way from decoded pixels to the network's input, shared by preparation and prediction.

The paper's order: denoise at the native resolution, resize, min-max to [0, 1].
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.decode import DEFAULT_LIMITS, DecodeError, Limits, decode, read_bytes
from data_prep.denoise.anscombe import denoise_poisson_gaussian, fit_noise_model
from data_prep.denoise.bm3d import PROFILES, bm3d
from data_prep.denoise.noise import estimate_sigma
from osteojax.errors import UserError

_BACKENDS = ("none", "numba", "jax", "package")
_NOISE_MODELS = ("gaussian", "poisson")
_ASPECTS = ("squash", "letterbox")
_VERSION = 1


@dataclass(frozen=True)
class PreprocessSpec:
    """Everything that determines the pixels; travels in the dataset's metadata and in every checkpoint.

    Attributes:
      denoise_backend: "none", or a backend of `data_prep.denoise.bm3d`.
      denoise_profile: BM3D profile, "fast" or "np".
      sigma: standard deviation of the noise in grey levels of a range of 255 (the field's convention;
        scaled to the file's full range), or None to estimate it for each image.
      noise_model: "gaussian", or "poisson" for raw detector data whose noise grows with brightness: its
        parameters are fitted to each image and the variance is stabilised (`data_prep.denoise.anscombe`); images that
        do not show such noise are denoised as "gaussian". `sigma` is then for those only.
      image_size: height and width of the result.
      aspect: "squash" resizes to a square as the paper does; "letterbox" keeps the aspect ratio and pads with
        the darkest value.
      value_bits: the result is rounded to multiples of 2**-value_bits, which is what makes it compress.
      version: of decoding and preprocessing; raised whenever the same file and fields would give other pixels.
    """

    denoise_backend: str = "none"
    denoise_profile: str = "fast"
    sigma: float | None = None
    noise_model: str = "gaussian"
    image_size: int = 224
    aspect: str = "squash"
    value_bits: int = 12
    version: int = _VERSION

    def __post_init__(self) -> None:
        _require(self.denoise_backend in _BACKENDS, "denoise.backend", self.denoise_backend, _BACKENDS)
        _require(self.denoise_profile in PROFILES, "denoise.profile", self.denoise_profile, tuple(PROFILES))
        _require(self.noise_model in _NOISE_MODELS, "denoise.noise_model", self.noise_model, _NOISE_MODELS)
        _require(self.aspect in _ASPECTS, "aspect", self.aspect, _ASPECTS)
        _require(self.image_size >= 8, "image_size", self.image_size, "8 or more")
        _require(8 <= self.value_bits <= 23, "value_bits", self.value_bits, "8 to 23")
        _require(
            self.version == _VERSION, "preprocessing version", self.version, f"{_VERSION} in this release"
        )
        finite = self.sigma is None or (np.isfinite(self.sigma) and self.sigma >= 0)
        _require(finite, "denoise.sigma", self.sigma, "None (estimate) or 0 and more")

    def to_json(self) -> str:
        """The spec as JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-serialisable fields, as the data set's metadata holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, text: str) -> "PreprocessSpec":
        """Inverse of `to_json`; raises UserError as `from_dict` does."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise UserError(f"the preprocessing spec is not JSON: {error}") from None
        return cls.from_dict(fields)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "PreprocessSpec":
        """Inverse of `to_dict`.

        Raises:
          UserError: unknown or missing fields, a value out of range, or a version that this release does not
            know.
        """
        expected = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, Mapping) or set(fields) != expected:
            raise UserError(
                f"a preprocessing spec has the fields {', '.join(sorted(expected))}; got {fields!r:.200}. "
                "It was written by another release of osteojax"
            )
        return cls(**fields)


def _require(condition: bool, name: str, value: object, allowed: object) -> None:
    if not condition:
        allowed = ", ".join(allowed) if isinstance(allowed, tuple) else allowed
        raise UserError(f"{name} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Preprocessed:
    """What `preprocess_native` found on the way.

    Attributes:
      image: float32 (image_size, image_size, 1) in [0, 1].
      denoised: float32 (height, width), native resolution and units.
      sigma: estimated standard deviation of the noise, in grey levels of a range of 255.
      warnings: codes; see `data_prep.denoise.noise`, "not_poisson" where the noise does not grow with brightness as
        the spec has it, and "constant" for an image without any contrast.
    """

    image: np.ndarray
    denoised: np.ndarray
    sigma: float
    warnings: tuple[str, ...]


def preprocess(pixels: np.ndarray, spec: PreprocessSpec, full_range: float = 255.0) -> np.ndarray:
    """Decoded luminance to the network's input.

    Args:
      pixels: (height, width), finite, any real dtype; see `data_prep.decode.Radiograph`.
      spec: what to do.
      full_range: of the encoding, in the units of `pixels`; gives `spec.sigma` its scale.

    Returns:
      float32, shape (image_size, image_size, 1), in [0, 1]: both ends are reached unless the image is
      constant, which gives zeros.
    """
    return preprocess_native(pixels, spec, full_range).image


def preprocess_file(path: Path, spec: PreprocessSpec, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Decodes and preprocesses one image file of any supported format, exactly as preparation does.

    Returns:
      float32, shape (image_size, image_size, 1), in [0, 1].

    Raises:
      UserError: the file is not one readable radiograph.
    """
    try:
        radiograph = decode(read_bytes(path, limits), limits)
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from None
    return preprocess(radiograph.pixels, spec, radiograph.full_range)


def preprocess_native(pixels: np.ndarray, spec: PreprocessSpec, full_range: float = 255.0) -> Preprocessed:
    """As `preprocess`, with the denoised native image and the estimated noise for the manifest."""
    pixels = np.ascontiguousarray(pixels, np.float32)
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"expected a (height, width) image, got shape {pixels.shape}")
    estimate = estimate_sigma(pixels)
    sigma = estimate.sigma if spec.sigma is None else spec.sigma * full_range / 255.0
    denoised, unmodelled = _denoise(pixels, sigma, spec)
    image = _min_max(_resize(denoised, spec), spec.value_bits)
    constant = ("constant",) if not image.any() else ()
    return Preprocessed(
        image[..., None],
        denoised,
        estimate.sigma * 255.0 / full_range,
        estimate.codes + unmodelled + constant,
    )


def _denoise(pixels: np.ndarray, sigma: float, spec: PreprocessSpec) -> tuple[np.ndarray, tuple[str, ...]]:
    """The denoised image, and a warning code where the asked-for noise model does not fit it."""
    if spec.denoise_backend == "none":
        return pixels, ()
    denoiser = partial(bm3d, profile=spec.denoise_profile, backend=spec.denoise_backend)
    if spec.noise_model == "gaussian":
        return denoiser(pixels, sigma), ()
    try:
        model = fit_noise_model(pixels)
    except UserError:
        return denoiser(pixels, sigma), ("not_poisson",)
    denoised = denoise_poisson_gaussian(
        pixels, denoiser, gain=model.gain, read_sigma=model.read_sigma, offset=model.offset
    )
    return denoised.astype(np.float32), ()


def _resize(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Triangle filter widened by the reduction factor, so that nothing aliases (Pillow, mode F)."""
    size = spec.image_size
    if spec.aspect == "squash":
        return _pillow_resize(pixels, size, size)
    scale = size / max(pixels.shape)
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    small = _pillow_resize(pixels, height, width)
    canvas = np.full((size, size), small.min(), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = small
    return canvas


def _pillow_resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels, mode="F").resize((width, height), Image.Resampling.BILINEAR))


def _min_max(pixels: np.ndarray, bits: int) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if high <= low:
        return np.zeros_like(pixels)
    levels = np.float32(2**bits)
    return np.round((pixels - low) / (high - low) * levels) / levels
