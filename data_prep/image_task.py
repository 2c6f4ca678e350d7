"""What preparation does with one image: a pure function of the file's bytes and the spec.

Called in worker processes; nothing in it knows about the others, so any runner can call it.
"""

import dataclasses
import hashlib
import hmac
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.burned_in import find_text
from data_prep.decode import DecodeError, Limits, Radiograph, check_size, decode, read_bytes
from data_prep.patients import header_id
from data_prep.preprocess import PreprocessSpec, denoiser_input, preprocess_native
from data_prep.pseudonym import pseudonym
from osteojax.errors import UserError, untold
from osteojax.place import open_place

log = logging.getLogger(__name__)

# Raised when the same file and spec give other pixels or other fields.
_CACHE_VERSION = 6


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """One file to prepare.

    Attributes:
        path: the file.
        clean: the same image without noise, where the truth is known; measured against, never used.
        spec: what to do with it.
        limits: what is refused.
        cache: place for finished images, a folder or an address on an object store; a file and spec that are already
            there are not computed again.
        secret: keys the pseudonyms of patients, and the names in the cache: without it a cache would tell whose images
            it holds. With another one nothing in the cache is taken.
        store: address of an object store that `path` is an object of, for workers that share no disk.
        name: of the file in messages; None for its path.
        burned_in: what is done about writing in the picture, as `PrivacySection` has it; the spec masks it.
        dated: whether the date of its header is wanted; it then lies in the cache.
    """

    path: Path
    clean: Path | None
    spec: PreprocessSpec
    limits: Limits
    cache: Path | str
    secret: bytes = b"\0"
    store: str | None = None
    name: str | None = None
    burned_in: str = "flag"
    dated: bool = False

    @property
    def shown(self) -> str:
        """What messages call the file."""
        return self.name or str(self.path)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What became of it.

    Attributes:
        key: of the image in the cache; see `load_image`.
        sha256: of the decoded pixels and their shape, the identity of the content.
        pixels_sha256: of the prepared image.
        n_bytes: size of the file.
        width, height, bits: of the file.
        sigma: estimated noise in grey levels of a range of 255.
        denoising: what was done about it; see `Preprocessed`.
        warnings: of the noise estimate and of preprocessing, as codes.
        notes: of the decoder.
        metadata: acquisition metadata of the file itself.
        patient: pseudonym from the DICOM PatientID, or None.
        anonymous: whether there is a PatientID that stands for anybody.
        date: when it was taken, by the DICOM header, or None; only the split may look at it.
        written: whether writing was found in the picture, or its header says that there is some.
        region: whether the joint was found, or why not; "" where it was not looked for.
        quality: PSNR in dB and SSIM against the clean image before and after denoising, where there is one.
    """

    key: str
    sha256: str
    pixels_sha256: str
    n_bytes: int
    width: int
    height: int
    bits: int
    sigma: float
    denoising: str = "none"
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    patient: str | None = None
    anonymous: bool = False
    date: str | None = None
    written: bool = False
    region: str = ""
    quality: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a file cannot be used."""

    reason: str


def prepare_image(task: ImageTask) -> Prepared | Failed:
    """Decodes, denoises, resizes and normalises one file and leaves the result in the cache."""
    with warnings.catch_warnings(record=True) as heard:
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        result = _prepare(task)
    for warning in heard:  # of libraries, which know no file
        log.info("%s: %s", task.shown, warning.message)
    return result


def _prepare(task: ImageTask) -> Prepared | Failed:
    try:
        data = _source_bytes(task)
        clean = read_bytes(task.clean, task.limits) if task.clean else b""
        key = _cache_key(data, clean, task)
        cached = _cached(task.cache, key)
        if cached:
            return cached
        radiograph, n_bytes = decode(data, task.limits), len(data)
        del data  # as large as its picture, of some formats
        return _compute(radiograph, n_bytes, clean, key, task)
    except DecodeError as error:
        return Failed(str(error))
    except UserError:  # a wrong setting or a full disk: no image is to blame
        raise
    except MemoryError:
        return Failed("needs more memory than there is")
    except Exception as error:  # one odd image must not cost a run of days; too many stop it
        log.error("%s: preprocessing failed, a defect of the program: %s", task.shown, untold(error))
        return Failed("preprocessing it failed, which is a defect of the program: the log says more")


def _source_bytes(task: ImageTask) -> bytes:
    if task.store is None:
        return read_bytes(task.path, task.limits)
    content = open_place(task.store).read(task.path.as_posix())
    if content is None:
        raise DecodeError("no such file")
    check_size(len(content), task.limits)
    return content


def load_image(cache: Path | str, key: str) -> np.ndarray:
    """The float32 (image_size, image_size, channels) image of a finished task."""
    return _read(cache, key)[0]


def content_hash(pixels: np.ndarray) -> str:
    """SHA-256 of float32 luminance and its shape: equal for equal pictures, whatever the file format."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, "<f4").data)
    return digest.hexdigest()


def denoising_quality(
    noisy: Radiograph, denoised: np.ndarray, clean: Radiograph, spec: PreprocessSpec
) -> dict[str, float]:
    """PSNR (dB) and SSIM before and after, on the scale [0, 1] of the encodings' full ranges.

    Measured where the spec denoises: at the native resolution, or on all three images resized.
    SSIM with the Gaussian window of sigma 1.5 of Wang et al. (IEEE TIP 13(4), 2004).
    """
    # Here, not above: it brings scipy.stats along, a second that every worker would pay for nothing.
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    truth = denoiser_input(clean.pixels, spec, clean.pixel_aspect) / np.float32(clean.full_range)
    before = denoiser_input(noisy.pixels, spec, noisy.pixel_aspect)
    result = {}
    for name, pixels in (("before", before), ("after", denoised)):
        image = pixels / np.float32(noisy.full_range)
        result[f"psnr_{name}"] = float(peak_signal_noise_ratio(truth, image, data_range=1.0))
        result[f"ssim_{name}"] = float(
            structural_similarity(
                truth, image, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
        )
    return result


def _compute(radiograph: Radiograph, n_bytes: int, clean: bytes, key: str, task: ImageTask) -> Prepared:
    written = _written(radiograph) if task.burned_in != "ignore" else ()
    if written and task.burned_in == "quarantine":
        raise DecodeError(f"{'; '.join(written)} (privacy.burned_in)")
    done = preprocess_native(radiograph.pixels, task.spec, radiograph.full_range, radiograph.pixel_aspect)
    quality = None
    if clean:
        noisy, truth = (
            dataclasses.replace(picture, pixels=picture.pixels[done.window])
            for picture in (radiograph, decode(clean, task.limits))
        )
        quality = denoising_quality(noisy, done.denoised, truth, task.spec)
    height, width = radiograph.pixels.shape
    identified = header_id(radiograph.patient)
    patient = identified and pseudonym(task.secret, "PatientID", identified)
    result = Prepared(
        key=key,
        sha256=content_hash(radiograph.pixels),
        pixels_sha256=content_hash(done.image),
        n_bytes=n_bytes,
        width=width,
        height=height,
        bits=radiograph.bits,
        sigma=done.sigma,
        denoising=done.denoising,
        warnings=done.warnings,
        notes=(*radiograph.notes, *written),
        metadata=dict(radiograph.metadata),
        patient=patient,
        anonymous=bool(radiograph.patient) and identified is None,
        date=radiograph.date if task.dated else None,
        written=bool(written),
        region=done.region,
        quality=quality,
    )
    _store(task.cache, result, done.image, task.spec.value_bits)
    return result


def _written(radiograph: Radiograph) -> tuple[str, ...]:
    """What is to be said of writing in the picture; nothing where there seems to be none."""
    found = ("there seems to be writing in the picture",) if find_text(radiograph.pixels) else ()
    stated = ("its header says that text is burned into the picture",) if radiograph.annotated else ()
    return found + stated


def _cache_key(data: bytes, clean: bytes, task: ImageTask) -> str:
    what = f"{_CACHE_VERSION} {task.spec.to_json()} {task.limits} {task.burned_in} {task.dated}"
    digest = hmac.new(task.secret, hashlib.sha256(what.encode()).digest(), "sha256")
    for part in (data, clean):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _store(cache: Path | str, result: Prepared, image: np.ndarray, bits: int) -> None:
    # Whole numbers of steps of 2**-bits: half of float32's size. Compression would take a tenth of the denoiser's time.
    steps = (image * np.float32(2**bits)).astype(np.uint16 if bits < 16 else np.uint32)
    stream = io.BytesIO()
    np.savez(stream, steps=steps, bits=bits, result=np.array(json.dumps(dataclasses.asdict(result))))
    open_place(cache).write(f"{result.key}.npz", stream.getvalue())


def _cached(cache: Path | str, key: str) -> Prepared | None:
    """What a finished task left behind; None where it has not been, or is no longer what was written."""
    try:
        image, fields = _read(cache, key)
        found = Prepared(**{**fields, **{name: tuple(fields[name]) for name in ("warnings", "notes")}})
    except Exception:  # there is none, or whatever damaged bytes make zlib, zipfile and numpy raise
        return None
    return found if (found.key, found.pixels_sha256) == (key, content_hash(image)) else None


def _read(cache: Path | str, key: str) -> tuple[np.ndarray, dict[str, Any]]:
    content = open_place(cache).read(f"{key}.npz")
    if content is None:
        raise FileNotFoundError(f"{cache} has no image {key}")
    with np.load(io.BytesIO(content), allow_pickle=False) as entry:
        image = entry["steps"].astype(np.float32) / np.float32(2 ** int(entry["bits"]))
        return image, json.loads(str(entry["result"]))
