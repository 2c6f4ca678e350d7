"""The one way from decoded pixels to the network's input, shared by preparation and prediction.

The paper's order: denoise at the native resolution, resize, min-max to [0, 1]. Denoising the resized image instead is
an ablation: many times cheaper, and the reduction has averaged most of the noise away by then.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float32
from PIL import Image

from data_prep.bands import bands
from data_prep.burned_in import find_text, without_text
from data_prep.decode import DEFAULT_LIMITS, DecodeError, Limits, decode, read_bytes
from data_prep.denoise.anscombe import denoise_poisson_gaussian
from data_prep.denoise.noise import NoiseEstimate, estimate_sigma
from data_prep.denoise.pixels import check_pixels
from data_prep.denoise.registry import DenoiseSpec
from data_prep.denoise.rule import LEFT_ALONE, treatment
from data_prep.region.joint import Region, find_region
from data_prep.region.spec import SIZE, RegionSpec
from osteojax.config import Bound, NotNegative, read
from osteojax.errors import UserError

_VERSION: Literal[3] = 3
_BEFORE_THERE_WAS_A_CHOICE = {
    "burned_in": "keep",
    "denoise_when": "always",
    "region": dataclasses.asdict(RegionSpec()),
}
_OUT_OF_RANGE = "its pixel values are too large or too close together to be computed with; scale them"


@dataclasses.dataclass(frozen=True)
class PreprocessSpec:
    """Everything that determines the pixels; travels in the dataset's metadata and in every checkpoint.

    Attributes:
        denoise: the denoiser and its settings.
        sigma: standard deviation of the noise in grey levels of a range of 255 (the field's convention;
            scaled to the file's full range), or None to estimate it for each image.
        denoise_when: where `sigma` is estimated, what is denoised: noise that is "known" to be noise, by the rule of
            `data_prep.denoise.rule`, or "always", whatever the estimate is worth, as before there was that rule.
        noise_model: "gaussian", or "poisson" for raw detector data whose noise grows with brightness: its
            parameters are fitted to each image and the variance is stabilised (`data_prep.denoise.anscombe`);
            images that do not show such noise are denoised as "gaussian". `sigma` is then for those only.
        denoise_at: "native" resolution as in the paper, or "resized": after the reduction to `image_size`.
        image_size: height and width of the result.
        aspect: "squash" resizes to a square as the paper does; "letterbox" keeps the aspect ratio and pads with
            the darkest value.
        burned_in: "keep" what is written in the picture, or "mask" it before anything else (`data_prep.burned_in`).
        value_bits: the result is rounded to multiples of 2**-value_bits, which is what makes it compress.
        region: what is done of the region of interest, before all but the writing (`data_prep.region`).
        version: of this record, in which a `burned_in` that is kept, a `denoise_when` that is always and a `region`
            that is not looked for are absent.
            Those of earlier releases are read, and mean the same: version 1 named a BM3D backend where this one names a
            denoiser, version 2 knew no `denoise_at` and was "native".
    """

    denoise: DenoiseSpec = dataclasses.field(default_factory=DenoiseSpec)
    sigma: Annotated[float, NotNegative] | None = None
    noise_model: Literal["gaussian", "poisson"] = "gaussian"
    denoise_at: Literal["native", "resized"] = "native"
    image_size: Annotated[int, Bound(low=8, high=4096)] = 224
    aspect: Literal["squash", "letterbox"] = "squash"
    value_bits: Annotated[int, Bound(low=8, high=23)] = 12
    burned_in: Literal["keep", "mask"] = "keep"
    denoise_when: Literal["known", "always"] = "always"
    region: RegionSpec = dataclasses.field(default_factory=RegionSpec)
    version: Literal[3] = _VERSION

    @property
    def channels(self) -> int:
        """Of the result: the image, and beside it the map of the region where that is a channel."""
        return 2 if self.region.how == "channel" else 1

    def to_json(self) -> str:
        """The spec as JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-serialisable fields, as the data set's metadata holds it."""
        fields = dataclasses.asdict(self)
        for name, before in _BEFORE_THERE_WAS_A_CHOICE.items():
            if fields[name] == before:  # the fingerprints of earlier datasets hold
                del fields[name]
        return fields

    @classmethod
    def from_json(cls, text: str) -> "PreprocessSpec":
        """Inverse of `to_json`; raises UserError as `from_dict` does."""
        try:
            fields = json.loads(text)
        except ValueError:
            raise UserError("the preprocessing spec is not JSON") from None
        return cls.from_dict(fields)

    @classmethod
    def from_dict(cls, fields: Any) -> "PreprocessSpec":
        """Inverse of `to_dict`; reads those of earlier releases too.

        Raises:
            UserError: unknown or missing fields, a value out of range, or a version that this release does not
                know.
        """
        expected = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, Mapping):
            raise UserError(f"a preprocessing spec is a dictionary; got {fields!r:.200}")
        fields = _from_version_1(fields) if fields.get("version") == 1 else fields
        fields = _from_version_2(fields) if fields.get("version") == 2 else fields
        fields = {**_BEFORE_THERE_WAS_A_CHOICE, **fields}
        if set(fields) != expected or fields["version"] != _VERSION:
            raise UserError(
                f"a preprocessing spec has the fields {', '.join(sorted(expected))} and version {_VERSION}; got "
                f"{dict(fields)!r:.200}. It was written by another release of osteojax"
            )
        spec = read(cls, fields, "preprocessing")
        return dataclasses.replace(spec, denoise=DenoiseSpec.of(spec.denoise.name, spec.denoise.settings))


def _from_version_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record of before there was a registry of denoisers, where a backend stood for all of it."""
    rest = {k: v for k, v in fields.items() if k not in ("denoise_backend", "denoise_profile")}
    backend, profile = fields.get("denoise_backend"), fields.get("denoise_profile")
    if backend == "none":
        denoise: dict[str, Any] = {"name": "none", "settings": {}}
    else:
        denoise = {"name": "bm3d", "settings": {"backend": backend, "profile": profile}}
    return {**rest, "denoise": denoise, "version": 2}


def _from_version_2(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record of before denoising could follow resizing."""
    if "denoise_at" in fields:
        return dict(fields)  # no release wrote that: it is refused for its version
    return {**fields, "denoise_at": "native", "version": _VERSION}


@dataclasses.dataclass(frozen=True)
class Preprocessed:
    """What `preprocess_native` found on the way.

    Attributes:
        image: float32 (image_size, image_size, channels) in [0, 1].
        denoised: float32 (height, width), native units, as the spec's denoiser left it: at the native resolution, or
            resized.
        denoising: what was done about the noise: "none" where the spec has no denoiser, "poisson" by its model, "given"
            by its sigma, "always" by an estimate whatever it is worth, or what `data_prep.denoise.rule` says.
        sigma: estimated standard deviation of the noise, in grey levels of a range of 255.
        region: "found", why the joint was not, or "" where it was not looked for.
        window: rows and columns of the decoded image that were used: all, or the crop.
        warnings: codes; see `data_prep.denoise.noise`, "not_poisson" where the noise does not grow with brightness as
            the spec has it, and "constant" for an image without any contrast.
    """

    image: Float32[np.ndarray, "size size channels"]
    denoised: Float32[np.ndarray, "height width"]
    denoising: str
    sigma: float
    region: str
    window: tuple[slice, slice]
    warnings: tuple[str, ...]


def preprocess(
    pixels: np.ndarray, spec: PreprocessSpec, full_range: float = 255.0, pixel_aspect: float = 1.0
) -> np.ndarray:
    """Decoded luminance to the network's input.

    Args:
        pixels: (height, width), finite, any real dtype; see `data_prep.decode.Radiograph`.
        spec: what to do.
        full_range: of the encoding, in the units of `pixels`; gives `spec.sigma` its scale.
        pixel_aspect: height of a pixel over its width; matters where the aspect ratio is kept.

    Returns:
        float32, shape (image_size, image_size, channels), in [0, 1]: the image reaches both ends unless it is
        constant, which gives zeros. A second channel is 1 where there is bone, 1/2 where there is joint space, in
        between where the segmenter is not sure, and 0 elsewhere, in padding and where no knee was found.
    """
    return preprocess_native(pixels, spec, full_range, pixel_aspect).image


def preprocess_file(path: Path, spec: PreprocessSpec, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Decodes and preprocesses one image file of any supported format, exactly as preparation does.

    Returns:
        As `preprocess`.

    Raises:
        UserError: the file is not one readable radiograph.
    """
    try:
        radiograph = decode(read_bytes(path, limits), limits)
        return preprocess(radiograph.pixels, spec, radiograph.full_range, radiograph.pixel_aspect)
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from None


def preprocess_native(
    pixels: np.ndarray, spec: PreprocessSpec, full_range: float = 255.0, pixel_aspect: float = 1.0
) -> Preprocessed:
    """As `preprocess`, with the denoised image and the estimated noise for the manifest.

    Raises:
        DecodeError: the pixels, or the result, are not what single precision can compute with.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"expected a (height, width) image, got shape {pixels.shape}")
    try:
        check_pixels(pixels, "preprocessing")
    except UserError as error:  # no setting is to blame, but this image
        raise DecodeError(_OUT_OF_RANGE) from error
    used, region = looked_at(pixels, spec, pixel_aspect)
    noisy = denoiser_input(used, spec, pixel_aspect)
    estimate = estimate_sigma(noisy)
    denoised, denoising, unmodelled = _denoise(noisy, estimate, spec, full_range / 255.0)
    small = denoised if spec.denoise_at == "resized" else _resize(denoised, spec, pixel_aspect)
    if spec.region.how == "mask":
        small = _darkened(small, region.mask)
    window = placement(used.shape, spec, pixel_aspect)
    image = _min_max(_pad(small, window, spec.image_size), spec.value_bits)
    if not np.isfinite(image).all():
        raise DecodeError(_OUT_OF_RANGE)
    constant = ("constant",) if not image.any() else ()
    maps = [] if spec.channels == 1 else [_beside(region.bones, window, spec)]
    return Preprocessed(
        np.stack([image, *maps], -1),
        denoised,
        denoising,
        estimate.sigma * 255.0 / full_range,
        region.reason,
        _window(region, pixels.shape, spec),
        estimate.codes + unmodelled + constant,
    )


def masked(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Decoded luminance as the spec lets it be seen: without writing where it is masked."""
    return without_text(pixels, find_text(pixels)) if spec.burned_in == "mask" else pixels


def looked_at(
    pixels: np.ndarray, spec: PreprocessSpec, pixel_aspect: float = 1.0
) -> tuple[np.ndarray, Region]:
    """Decoded luminance as the spec lets it be seen, without writing and cropped, and the region that was found."""
    seen = masked(pixels, spec)
    if spec.region.how == "none":
        return seen, Region("")
    from data_prep.region.segment import segment  # it brings JAX along, which nothing else here needs

    square, window = segmenter_input(seen, spec, pixel_aspect)
    region = find_region(segment(square, spec.region.weights)[window])
    return seen[_window(region, pixels.shape, spec)], region


def segmenter_input(
    pixels: np.ndarray, spec: PreprocessSpec, pixel_aspect: float = 1.0
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """What the segmenter is given of an image: a square in [0, 1], and the part of it that the image fills."""
    whole = dataclasses.replace(spec, image_size=SIZE, aspect="letterbox")
    window = placement(pixels.shape, whole, pixel_aspect)
    small = _resize(np.ascontiguousarray(pixels, np.float32), whole, pixel_aspect)
    return _min_max(_pad(small, window, SIZE), spec.value_bits), window


def _window(region: Region, shape: tuple[int, ...], spec: PreprocessSpec) -> tuple[slice, slice]:
    """Rows and columns of the decoded image that are used."""
    if spec.region.how != "crop":
        return slice(0, shape[0]), slice(0, shape[1])
    (top, bottom), (left, right) = region.rows, region.columns
    return (
        slice(math.floor(top * shape[0]), math.ceil(bottom * shape[0])),
        slice(math.floor(left * shape[1]), math.ceil(right * shape[1])),
    )


def _darkened(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Outside of the mask, which covers the same field in other pixels, as dark as the darkest within."""
    inside = _scaled(mask.astype(np.float32), *pixels.shape) > 0.5
    return np.where(inside, pixels, pixels[inside].min()) if inside.any() else pixels


def _beside(bones: np.ndarray, window: tuple[slice, slice], spec: PreprocessSpec) -> np.ndarray:
    """The map of the region, which covers the same field as the image, at the image's place in the square."""
    height, width = (side.stop - side.start for side in window)
    map_ = np.clip(_scaled(bones, height, width), 0, 1)
    return _rounded(_pad(map_, window, spec.image_size, 0.0), spec.value_bits)


def denoiser_input(pixels: np.ndarray, spec: PreprocessSpec, pixel_aspect: float = 1.0) -> np.ndarray:
    """What the spec's denoiser is given of decoded luminance: float32 (height, width), native or resized."""
    pixels = np.ascontiguousarray(pixels, np.float32)
    return _resize(pixels, spec, pixel_aspect) if spec.denoise_at == "resized" else pixels


def _denoise(
    pixels: np.ndarray, estimate: NoiseEstimate, spec: PreprocessSpec, grey_level: float
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """The denoised image, what was done, and a warning code where the asked-for noise model does not fit it."""
    if spec.denoise.name == "none":
        return pixels, "none", ()
    unmodelled: tuple[str, ...] = ()
    if spec.noise_model == "poisson":
        try:
            return denoise_poisson_gaussian(pixels, spec.denoise), "poisson", ()
        except UserError:  # it does not show such noise; what else is wrong will be so without the model too
            unmodelled = ("not_poisson",)
    if spec.sigma is not None:
        return spec.denoise(pixels, spec.sigma * grey_level), "given", unmodelled
    if spec.denoise_when == "always":
        return spec.denoise(pixels, estimate.sigma), "always", unmodelled
    found = treatment(pixels, estimate, grey_level=grey_level, coloured=spec.denoise.coloured)
    if found.name in LEFT_ALONE:
        return pixels, found.name, unmodelled
    return spec.denoise(pixels, found.sigma, found.psd), found.name, unmodelled


def placement(shape: tuple[int, ...], spec: PreprocessSpec, pixel_aspect: float = 1.0) -> tuple[slice, slice]:
    """Rows and columns of the network's square that an image fills; the rest of the square is padding.

    Args:
        shape: (height, width) of the decoded image.
        spec: its `image_size` and `aspect` decide.
        pixel_aspect: height of a pixel over its width.
    """
    size = spec.image_size
    if spec.aspect == "squash":
        return slice(0, size), slice(0, size)
    sides = shape[0] * pixel_aspect, shape[1]
    scale = size / max(sides)
    height, width = (max(1, round(side * scale)) for side in sides)
    top, left = (size - height) // 2, (size - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _resize(pixels: np.ndarray, spec: PreprocessSpec, pixel_aspect: float) -> np.ndarray:
    """To a square, or to what fits into it. Triangle filter widened by the reduction factor, so that nothing aliases
    (Pillow, mode F)."""
    height, width = (side.stop - side.start for side in placement(pixels.shape, spec, pixel_aspect))
    # Pillow, which copies what it is given, goes over the rows first too.
    narrow = np.empty((pixels.shape[0], width), np.float32)
    for rows in bands(*pixels.shape):
        narrow[rows] = _scaled(pixels[rows], rows.stop - rows.start, width)
    return _scaled(narrow, height, width)


def _scaled(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _pad(pixels: np.ndarray, window: tuple[slice, slice], size: int, fill: float | None = None) -> np.ndarray:
    """At its place in a square of the value `fill`, or of its darkest one."""
    canvas = np.full((size, size), pixels.min() if fill is None else fill, np.float32)
    canvas[window] = pixels
    return canvas


def _min_max(pixels: np.ndarray, bits: int) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if high <= low:
        return np.zeros_like(pixels)
    return _rounded((pixels - low) / (high - low), bits)


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    levels = np.float32(2**bits)
    return np.round(values * levels) / levels
