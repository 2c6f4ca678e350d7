"""What the default denoising does to films: where the truth is known, and to real ones.

    python benchmarks/real_films.py truth ../shared/data/fullres/*
    python benchmarks/real_films.py study --crops=CROPS ../shared/data/fullres/* ../shared/data/knee/*/*
    python benchmarks/real_films.py count ../shared/data/knee/*/*

Prints the tables of docs/real_films.md as Markdown. `truth` takes phantoms and the given films, reduced `--reduce`
times or more, as clean; `study` writes crops before and after as PNG; `count` says what the rule does with how many
films.
"""

import argparse
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity

from data_prep.decode import decode
from data_prep.denoise.bm3d import bm3d
from data_prep.denoise.noise import estimate_sigma
from data_prep.denoise.registry import DenoiseSpec
from data_prep.denoise.rule import treatment
from data_prep.phantom import generate_image
from data_prep.preprocess import PreprocessSpec, preprocess_native

BM3D = DenoiseSpec.of("bm3d", {})
WAYS = {
    "before there was a rule": PreprocessSpec(BM3D),
    "default": PreprocessSpec(BM3D, denoise_when="known"),
    "sigma 22": PreprocessSpec(BM3D, sigma=22.0),
}
# Cycles a pixel; the files do not say how large a pixel is.
BANDS = ((0.05, 0.1), (0.1, 0.2), (0.2, 0.35), (0.35, 0.5))
TILE = 64


def main() -> None:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["truth", "study", "count"])
    parser.add_argument("films", nargs="*", type=Path)
    parser.add_argument("--reduce", type=int, default=4, help="least reduction of the films of `truth`")
    parser.add_argument("--crops", type=Path, help="folder for the pictures of `study`")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "truth":
        _print_truth(_clean_images(arguments.films, arguments.reduce))
    elif arguments.what == "study":
        _print_study(arguments.films, arguments.crops)
    else:
        _print_count(arguments.films)


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


# Where the truth is known


def _clean_images(films: Sequence[Path], least: int) -> Iterator[np.ndarray]:
    yield 255.0 * generate_image("healthy").clean
    yield 255.0 * generate_image("osteoporosis", patient=3).clean
    for path in films:
        read = decode(path.read_bytes())
        film = Image.fromarray(read.pixels * np.float32(255 / read.full_range))
        reduction = max(least, round(max(film.size) / 700))
        size = (film.width // reduction, film.height // reduction)
        yield np.asarray(film.resize(size, Image.Resampling.BOX), float)


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(_eight_bit(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _cases(clean: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture of everything that is done to a clean one."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=clean.shape)
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(clean.shape[0]), np.fft.fftfreq(clean.shape[1]), indexing="ij")
    )

    def unit(noise: np.ndarray) -> np.ndarray:
        return noise / noise.std()

    blurred = {f"blur {blur:g}": unit(ndimage.gaussian_filter(white, blur)) for blur in (0.5, 0.7, 1.0)}
    # The Lorentzian that scintillators are described by.
    blurred["detector MTF"] = unit(np.fft.ifft2(np.fft.fft2(white) / (1 + (frequency / 0.3) ** 2)).real)
    yield "nothing", clean
    yield "8 bits", _eight_bit(clean)
    for quality in (75, 90):
        yield f"JPEG {quality}", _jpeg(clean, quality)
    for sigma in (3, 10):
        yield f"white {sigma}", clean + sigma * white
        for name, noise in blurred.items():
            yield f"{name}, {sigma}", clean + sigma * noise
        yield f"white {sigma}, 8 bits", _eight_bit(clean + sigma * white)
        yield f"blur 0.7, {sigma}, 8 bits", _eight_bit(clean + sigma * blurred["blur 0.7"])
        for quality in (75, 90):
            yield f"white {sigma}, JPEG {quality}", _jpeg(clean + sigma * white, quality)
            yield f"blur 0.7, {sigma}, JPEG {quality}", _jpeg(clean + sigma * blurred["blur 0.7"], quality)
    for quanta in (100, 1000):
        yield f"Poisson, {quanta} quanta", rng.poisson(clean.clip(0) / 255 * quanta) * (255 / quanta)
    mixed = rng.poisson(clean.clip(0) / 255 * 300) * (255 / 300) + 2 * white
    yield "Poisson, 2 white, blur 0.6, JPEG 90", _jpeg(ndimage.gaussian_filter(mixed, 0.6), 90)


def _psnr(clean: np.ndarray, image: np.ndarray) -> float:
    error = np.mean((np.asarray(image, float) - clean) ** 2)
    return 10 * float(np.log10(255**2 / error)) if error else np.inf


def _ssim(clean: np.ndarray, image: np.ndarray) -> float:
    options = {"data_range": 255.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(clean, np.asarray(image, float), **options))


def _true_spectrum(noise: np.ndarray) -> np.ndarray:
    tiles = _tiles(noise)
    return (np.abs(np.fft.fft2(tiles)) ** 2).mean(axis=0)


def _print_truth(images: Iterator[np.ndarray]) -> None:
    found: dict[str, list[tuple[float, ...]]] = {}
    names: dict[str, Counter] = {}
    for clean in images:
        for case, picture in _cases(clean):
            noisy = np.asarray(picture, np.float32)
            estimate = estimate_sigma(noisy)
            rule = treatment(noisy, estimate, grey_level=1.0, coloured=True)
            noise = noisy - clean
            oracle = bm3d(noisy, float(noise.std()), psd=_true_spectrum(noise)) if noise.any() else noisy
            results = (noisy, bm3d(noisy, estimate.sigma), bm3d(noisy, rule.sigma, psd=rule.psd), oracle)
            scores = (*(_psnr(clean, r) for r in results), *(_ssim(clean, r) for r in results))
            found.setdefault(case, []).append(scores)
            names.setdefault(case, Counter())[rule.name] += 1
    heads = [f"{way}: PSNR, SSIM" for way in ("none", "always", "default", "oracle")]
    heads = ["noise", *heads, "default - none, worst", "gains of 1 dB: oracle, default", "the rule"]
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|---|---|")
    worst_of_all, possible, made = np.inf, 0, 0
    for case, rows in found.items():
        table = np.array(rows)
        with np.errstate(invalid="ignore"):
            gain = table[:, :4] - table[:, :1]
        gain[np.isnan(gain)] = 0.0  # both are the clean picture itself
        worst, best = gain[:, 2].min(), int((gain[:, 3] > 1).sum())
        ours = int((gain[gain[:, 3] > 1, 2] > 1).sum())
        worst_of_all, possible, made = min(worst_of_all, worst), possible + best, made + ours
        cells = " | ".join(f"{p:.2f}, {s:.3f}" for p, s in zip(*np.split(table.mean(axis=0), 2), strict=True))
        rule = ", ".join(f"{count} {name}" for name, count in names[case].most_common())
        print(f"| {case} | {cells} | {worst:+.2f} | {best}, {ours} | {rule} |")
    verdict = "holds" if worst_of_all >= -0.1 else "BROKEN"
    print(f"\nNever worse than none by more than 0.1 dB: {verdict} (worst {worst_of_all:+.2f} dB).")
    print(f"The oracle gains more than 1 dB on {possible} pictures, the default on {made} of these.")


# Real films


def _tiles(image: np.ndarray) -> np.ndarray:
    """Hann-windowed tiles (n, TILE, TILE), half overlapping, without their means."""
    views = np.lib.stride_tricks.sliding_window_view(image, (TILE, TILE))[:: TILE // 2, :: TILE // 2]
    tiles = views.reshape(-1, TILE, TILE).astype(float)
    return (tiles - tiles.mean(axis=(1, 2), keepdims=True)) * np.outer(*2 * [np.hanning(TILE + 2)[1:-1]])


def _band_power(image: np.ndarray) -> np.ndarray:
    """Power in each of `BANDS`, summed over the image."""
    power = (np.abs(np.fft.fft2(_tiles(image))) ** 2).sum(axis=0)
    radius = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(TILE)]))
    return np.array([power[(radius >= low) & (radius < high)].sum() for low, high in BANDS])


def _steepness(image: np.ndarray) -> np.ndarray:
    return np.hypot(ndimage.sobel(image, 0), ndimage.sobel(image, 1))


def _print_study(films: Sequence[Path], crops: Path | None) -> None:
    bands = " | ".join(f"power {low:g} to {high:g}" for low, high in BANDS)
    print(f"| film | way | done | grey levels, native | at 224 | {bands} | edges |")
    print("|---|---|---|---|---|" + "---|" * len(BANDS) + "---|")
    means: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for path in films:
        before = _read(path).astype(np.float32)
        plain = preprocess_native(before, PreprocessSpec()).image
        power, steep = _band_power(before), _steepness(before)
        edges = steep >= np.quantile(steep, 0.95)
        pictures = [before]
        for way, spec in WAYS.items():
            done = preprocess_native(before, spec)
            changed = np.abs(done.denoised - before).mean(), 255 * np.abs(done.image - plain).mean()
            kept = _band_power(done.denoised) / power
            edge = _steepness(done.denoised)[edges].mean() / steep[edges].mean()
            values = np.array([*changed, *kept, edge])
            means[way].append(values)
            print(
                f"| {path.name} | {way} | {done.denoising} | {' | '.join(f'{v:.2f}' for v in values)} |",
                flush=True,
            )
            pictures.append(done.denoised)
        if crops:
            crops.mkdir(parents=True, exist_ok=True)
            _picture(pictures).save(crops / f"{path.stem}.png")
    for way, rows in means.items():
        mean = np.mean(rows, axis=0)
        print(f"| mean of {len(rows)} | {way} | | {' | '.join(f'{v:.2f}' for v in mean)} |")


def _picture(images: Sequence[np.ndarray], side: int = 256) -> Image.Image:
    """The liveliest part of a film in all versions beside each other, twice enlarged, stretched as the first is."""
    first = images[0]
    lively = ndimage.uniform_filter(_steepness(ndimage.gaussian_filter(first, 1)), side)
    half = side // 2
    rows, columns = (slice(half, max(n - half, half + 1)) for n in first.shape)
    y, x = np.unravel_index(lively[rows, columns].argmax(), lively[rows, columns].shape)
    parts = [image[y : y + side, x : x + side] for image in images]
    low, high = np.percentile(parts[0], (0.5, 99.5))
    row = np.hstack([_eight_bit((part - low) / max(high - low, 1) * 255) for part in parts])
    return Image.fromarray(row).resize((2 * row.shape[1], 2 * row.shape[0]), Image.Resampling.NEAREST)


def _print_count(films: Sequence[Path]) -> None:
    done: Counter[str] = Counter()
    for path in films:
        pixels = _read(path)
        done[treatment(pixels, estimate_sigma(pixels), grey_level=1.0, coloured=True).name] += 1
    print("| rule | films |\n|---|---|")
    for name, count in done.most_common():
        print(f"| {name} | {count} |")


if __name__ == "__main__":
    main()
