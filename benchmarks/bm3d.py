# ruff: noqa: E402 (threads are limited and the path is set before anything is imported)
"""BM3D of this project beside the closed `bm3d` package: CPU time and quality, alternately, one thread each.

    python benchmarks/bm3d.py                      # everything; about 90 minutes, nearly all of it the package's
    python benchmarks/bm3d.py --quick              # one image of 224 and one of 512 pixels, one sigma
    python benchmarks/bm3d.py --sizes full --sigmas 25 --no-peers
    python benchmarks/bm3d.py --sizes 224 --seed 2 # other noise than the profiles were chosen on

White Gaussian noise is added to clean 8-bit images (not clipped). For every image, size and sigma the
denoisers run one after the other in one process; the time is CPU-seconds of the whole process. Images: the
phantom, those that scikit-image bundles, and, where ../shared/data is present, real radiographs (`R:`).
"""

import argparse
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# In this file's own folder `import bm3d` would find this file.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import skimage.data
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from data_prep.denoise.bm3d import bm3d
from data_prep.phantom import PhantomConfig, generate_image

BUNDLED = ["astronaut", "brick", "camera", "cell", "chelsea", "clock_motion", "coffee", "coins", "grass"]
BUNDLED += ["gravel", "moon", "page", "retina"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PEAK = 255.0


def luminance(path):
    """An image file as float64 grey levels in [0, 255]."""
    return np.asarray(Image.open(path).convert("L"), np.float64)


def images(size):
    """(name, clean image) for a size: central crops of 224, 512 or 1024 pixels, or whole radiographs."""
    bundled = {p.stem: p for p in Path(skimage.data.__file__).parent.iterdir() if p.stem in BUNDLED}
    radiographs = {f"R:{p.stem}": p for p in sorted((SHARED / "fullres").glob("*"))}
    if size == "full":
        whole = {name: luminance(path) for name, path in radiographs.items()}
        return [(name, image) for name, image in whole.items() if max(image.shape) > 1024]
    n = int(size)
    if n < 512:
        for label in ("normal", "osteopenia", "osteoporosis"):
            radiographs |= {f"R:{p.stem}": p for p in sorted((SHARED / "knee" / label).glob("*"))[3:5]}
    found = [
        (f"phantom:{label}", generate_image(label, config=PhantomConfig(image_size=(n, n))).clean * PEAK)
        for label in ("healthy", "osteopenia", "osteoporosis")
    ]
    chosen = {name: bundled[name] for name in (BUNDLED if n < 512 else ["camera", "moon", "page"])}
    for name, path in {**chosen, **radiographs}.items():
        image = luminance(path)
        if min(image.shape) >= n:
            y, x = ((side - n) // 2 for side in image.shape)
            found.append((name, image[y : y + n, x : x + n]))
    return found


def ours(profile):
    """This project's denoiser with a profile."""
    return lambda noisy, sigma: bm3d(noisy, sigma, profile=profile)


def package(noisy, sigma):
    """The `bm3d` package, called as its documentation says for images in [0, 1]."""
    import bm3d as closed

    settings = closed.BM3DProfile()
    settings.num_threads = 1
    return closed.bm3d(noisy / PEAK, sigma / PEAK, settings).reshape(noisy.shape) * PEAK


def non_local_means(noisy, sigma):
    """scikit-image's non-local means with the settings of its own example."""
    s = sigma / PEAK
    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return denoise_nl_means(noisy / PEAK, h=0.6 * s, sigma=s, **settings) * PEAK


def wavelet(noisy, sigma):
    """scikit-image's wavelet shrinkage (BayesShrink)."""
    return denoise_wavelet(noisy / PEAK, sigma=sigma / PEAK, rescale_sigma=True) * PEAK


def total_variation(noisy, sigma):
    """scikit-image's total variation, the weight that its example takes, scaled to sigma."""
    return denoise_tv_chambolle(noisy / PEAK, weight=sigma / PEAK) * PEAK


def psnr(clean, image):
    """Peak signal-to-noise ratio in dB for peak 255."""
    return 10 * np.log10(PEAK**2 / np.mean((clean - image) ** 2))


def ssim(clean, image):
    """Structural similarity with the settings of its paper."""
    return structural_similarity(
        clean, image, data_range=PEAK, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


def compare(sizes, sigmas, few, peers, seed):
    """Prints one line an image and sigma, and one summary a size."""
    denoisers = {"fast": ours("fast"), "faster": ours("faster"), "np": ours("np"), "package": package}
    if peers:
        denoisers |= {"nlm": non_local_means, "wavelet": wavelet, "tv": total_variation}
    for denoiser in (denoisers["fast"], denoisers["faster"], denoisers["np"]):
        denoiser(np.random.default_rng(0).normal(100.0, 20.0, (64, 64)), 20.0)
    for size in sizes:
        rows = []
        for name, clean in images(size)[-1:] if few else images(size):
            for sigma in sigmas:
                noisy = clean + np.random.default_rng(seed).normal(0.0, sigma, clean.shape)
                row = {}
                for key, denoiser in denoisers.items():
                    start = time.process_time()
                    result = denoiser(noisy, float(sigma))
                    row[key] = (time.process_time() - start, psnr(clean, result), ssim(clean, result))
                rows.append((name, sigma, row))
                cells = "  ".join(f"{k} {t:.3f} s {p:.2f} dB {s:.3f}" for k, (t, p, s) in row.items())
                before = f"noisy {psnr(clean, noisy):.2f} dB {ssim(clean, noisy):.3f}"
                print(f"{size:>5} {name:<20} sigma {sigma:>2}  {before}  {cells}", flush=True)
        summarise(size, rows, denoisers)


def summarise(size, rows, denoisers):
    """Prints time, ratio to the package and PSNR difference to it, over all rows of a size."""
    print(f"\n## {size}: {len(rows)} images and sigmas, means")
    print("| denoiser | CPU-s | package / it | PSNR dB | SSIM | PSNR difference: mean, radiographs, worst |")
    print("|---|---|---|---|---|---|")
    total = sum(row["package"][0] for _, _, row in rows)
    for key in denoisers:
        seconds, decibels, similarity = (np.mean([row[key][i] for _, _, row in rows]) for i in range(3))
        differences = [(row[key][1] - row["package"][1], f"{n} {s}") for n, s, row in rows]
        radiographs = [d for d, n in differences if n.startswith("R:")]
        mean, worst = np.mean([d for d, _ in differences]), min(differences)
        real = f"{np.mean(radiographs):+.3f}" if radiographs else "none"
        print(
            f"| {key} | {seconds:.3f} | {total / (seconds * len(rows)):.1f} | {decibels:.2f} | {similarity:.3f} "
            f"| {mean:+.3f}, {real}, {worst[0]:+.3f} ({worst[1]}) |"
        )
    print(flush=True)


def work(count):
    """What one worker does in `scaling`: denoises the same image `count` times."""
    noisy = np.random.default_rng(0).normal(100.0, 20.0, (512, 512))
    for _ in range(count):
        bm3d(noisy, 20.0)


def scaling(count=8):
    """Prints how much faster two workers are than one, in wall time, as processes and as threads."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(work, [1, 1], chunksize=1)
        seconds = []
        for jobs in ([2 * count], [count, count]):
            start = time.perf_counter()
            pool.map(work, jobs, chunksize=1)
            seconds.append(time.perf_counter() - start)
    print(f"two processes against one: {seconds[0] / seconds[1]:.2f}x ({2 * count} images of 512x512)")
    start = time.perf_counter()
    work(2 * count)
    one = time.perf_counter() - start
    threads = [threading.Thread(target=work, args=(count,)) for _ in range(2)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"two threads against one:   {one / (time.perf_counter() - start):.2f}x", flush=True)


def main():
    """Parses the options and runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="224,512,1024,full", help="of 224, 512, 1024, full; '' for none")
    parser.add_argument("--sigmas", default="15,22,25,50", help="noise on the scale of 0 to 255")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--quick", action="store_true", help="one image of 224 and 512 pixels, sigma 25")
    parser.add_argument("--no-peers", action="store_true", help="leave out scikit-image's denoisers")
    parser.add_argument("--no-scaling", action="store_true", help="leave out two workers against one")
    options = parser.parse_args()
    try:
        import bm3d as _  # noqa: F401
    except ImportError:
        sys.exit("benchmarks/bm3d.py compares with the bm3d package: pip install 'osteojax[bm3d]'")
    sizes = "224,512" if options.quick else options.sizes
    sigmas = "25" if options.quick else options.sigmas
    if not options.no_scaling:
        scaling(2 if options.quick else 8)
    compare(
        [s for s in sizes.split(",") if s],
        [int(s) for s in sigmas.split(",")],
        options.quick,
        not options.no_peers,
        options.seed,
    )


if __name__ == "__main__":
    main()
