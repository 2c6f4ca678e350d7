"""What the noise estimators read where the truth is known, and what the variance-stabilising transform gains.

    python benchmarks/noise.py [RADIOGRAPH ...]

Prints the tables of docs/noise.md as Markdown. The phantom and scikit-image's camera need no data; radiographs given
on the command line are taken as clean and join both tables.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.restoration import estimate_sigma as skimage_sigma

from data_prep.denoise.anscombe import (
    NoiseModel,
    denoise_poisson_gaussian,
    expected_anscombe,
    fit_noise_model,
    inverse_anscombe,
)
from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.noise import estimate_sigma
from data_prep.phantom import generate_image

PEAK = 20.0  # quanta at the brightest pixel, as in the literature's Poisson tables


def main() -> None:
    """Prints all three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("radiographs", nargs="*", type=Path)
    parser.add_argument("--profile", default="fast", help="BM3D profile of the Poisson table")
    arguments = parser.parse_args()

    images = {"phantom": 255.0 * generate_image("healthy").clean, "camera": data.camera().astype(float)}
    images |= {path.stem: np.asarray(Image.open(path).convert("L"), float) for path in arguments.radiographs}
    _print_biases(images)
    _print_poisson(images, arguments.profile)
    _print_inverse()


def _jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(_eight_bit(image)).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


# Sigma 22 is added to the clean image, on its range of 255, and then this happens to the sum.
_AFTERWARDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda x: x,
    "clipped to 8 bits": _eight_bit,
    "blur 0.4 pixels": lambda x: ndimage.gaussian_filter(x, 0.4),
    "blur 0.7 pixels": lambda x: ndimage.gaussian_filter(x, 0.7),
    "enlarged 1.5 times": lambda x: ndimage.zoom(x, 1.5, order=1),
    "sharpened": lambda x: x + (x - ndimage.gaussian_filter(x, 1.0)),
    "JPEG, quality 75": _jpeg,
}


def _print_biases(images: dict[str, np.ndarray]) -> None:
    print("| image | noise added | afterwards | skimage | MAD | PSD | PSD ratio | pixels used | warnings |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, clean in images.items():
        white = np.random.default_rng(0).normal(size=clean.shape)
        cases = {(sigma, "nothing"): clean + sigma * white for sigma in (0, 2, 5, 50)}
        cases |= {(22, what): change(clean + 22 * white) for what, change in _AFTERWARDS.items()}
        for (sigma, what), image in cases.items():
            found = estimate_sigma(image)
            print(
                f"| {name} | {sigma} | {what} | {skimage_sigma(image.astype(float)):.2f} | {found.sigma:.2f} "
                f"| {_or_dash(found.sigma_psd)} | {_or_dash(found.psd_ratio)} | {found.used_fraction:.0%} "
                f"| {', '.join(found.codes) or 'none'} |"
            )


def _print_poisson(images: dict[str, np.ndarray], profile: str) -> None:
    print(f"\nPSNR in dB after BM3D ({profile}) of Poisson noise, {PEAK:g} quanta at the brightest pixel.\n")
    print(
        "| image | noisy | skimage's sigma | our sigma | rms sigma | transform | fitted | gain fitted for 1 |"
    )
    print("|---|---|---|---|---|---|---|---|")

    def denoiser(image: np.ndarray, sigma: float) -> np.ndarray:
        return bm3d(image, sigma, profile=profile)

    for name, clean in images.items():
        truth = clean / clean.max() * PEAK
        noisy = np.random.default_rng(0).poisson(truth).astype(float)
        results = [
            noisy,
            denoiser(noisy, float(skimage_sigma(noisy))),
            denoiser(noisy, estimate_sigma(noisy).sigma),
            denoiser(noisy, float(np.sqrt(truth.mean()))),
            denoise_poisson_gaussian(noisy, denoiser, gain=1.0),
            denoise_poisson_gaussian(noisy, denoiser),
        ]
        decibels = (10 * np.log10(PEAK**2 / np.mean((r - truth) ** 2)) for r in results)
        gain = fit_noise_model(noisy).gain
        print(f"| {name} | {' | '.join(f'{d:.2f}' for d in decibels)} | {gain:.3f} |")


def _print_inverse() -> None:
    print("\nBias in quanta after transform, perfect denoising and inverse.\n")
    print("| read-out sigma (quanta) | quanta | exact inverse | asymptotic | algebraic |")
    print("|---|---|---|---|---|")
    for s in (0.0, 1.0, 5.0):
        quanta = np.array([0.0, 0.5, 2.0, 10.0, 100.0, 1500.0])
        d = expected_anscombe(quanta, s)
        exact = inverse_anscombe(d, NoiseModel(1.0, s)) - quanta
        for x, e, asymptotic in zip(quanta, exact, d**2 / 4 - 1 / 8 - s * s - quanta, strict=True):
            print(f"| {s:g} | {x:g} | {e:+.4f} | {asymptotic:+.4f} | {asymptotic - 1 / 4:+.4f} |")


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
