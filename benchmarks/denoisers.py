# ruff: noqa: E402 (threads are limited and the path is set before anything is imported)
"""All denoisers beside each other, on phantoms that none of them was trained or tuned on.

    python benchmarks/denoisers.py                     # the table of docs/denoisers.md; about 5 minutes of CPU
    python benchmarks/denoisers.py --sure A --clean B  # with two files of osteojax train-denoiser beside the rest
    python benchmarks/denoisers.py --images 1 --rows "none,bm3d np,dncnn"
    python benchmarks/denoisers.py --rows "bm3d np,bm3d of deepinv"  # pip install deepinv==0.5.0 ptwt; left out without

White Gaussian noise (not clipped) of sigma 15, 25 and 50 grey levels, which every denoiser is told; and the phantom's
own noise, of counted quanta behind a logarithm, the same exposure as `--source=phantom` has: there every denoiser is
told what preparation estimates. CPU-seconds are of the process, one thread, second call (compiled). FLOPs a pixel are
those that XLA counts in the program of one tile, with the margin around it, before it compiles it. KAIR's weights are
read from ../shared/weights where they are.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
# In this file's own folder `import bm3d` would find another file.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from data_prep.denoise.dncnn import SHIPPED
from data_prep.denoise.noise import estimate_sigma
from data_prep.denoise.registry import DenoiseSpec
from data_prep.phantom import CLASS_NAMES, PhantomConfig, generate_image
from osteojax.files import sha256_of
from osteojax.weights.dncnn import DnCNNFacts, read_dncnn, read_kair_dncnn, write_dncnn

KAIR = Path(__file__).resolve().parents[2] / "shared" / "weights" / "kair_dncnn_25.pth"
PEAK = 255.0
OWN = "phantom"
HELD_OUT = 4711  # seed of the phantoms; configs/denoisers has another


def rows_of(options):
    """Name -> denoiser."""
    rows = {"none": ("none", {})}
    rows |= {
        f"bm3d {profile}": ("bm3d", {"profile": profile}) for profile in ("np", "fast", "faster", "bounded")
    }
    rows |= {name: (name, {}) for name in ("nl_means", "wavelet", "total_variation")}
    rows["dncnn"] = ("dncnn", {})
    files = {"dncnn small by SURE": options.sure, "dncnn small": options.clean}
    if KAIR.exists():
        files["dncnn of KAIR"] = options.scratch / "kair.safetensors"
        write_dncnn(files["dncnn of KAIR"], read_kair_dncnn(KAIR), DnCNNFacts((25.0, 25.0)))
    rows |= {name: ("dncnn", {"weights": str(path)}) for name, path in files.items() if path}
    return {name: DenoiseSpec.of(*row) for name, row in rows.items()} | of_deepinv()


def of_deepinv():
    """Name -> denoiser of deepinv (BSD-3), whose BM3D is none of ours; nothing, and a line, where it is absent."""
    try:
        import torch
        from deepinv.models import BM3D

        model = BM3D(use_legacy=False)  # the other is the package `bm3d` under another name
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that is not of this torch
        print(f"bm3d of deepinv is left out, it cannot be imported: {error}", file=sys.stderr)
        return {}
    torch.set_num_threads(1)

    def denoise(pixels, sigma):
        with torch.no_grad():
            return PEAK * model(torch.from_numpy(pixels)[None, None] / PEAK, sigma / PEAK)[0, 0].numpy()

    return {"bm3d of deepinv": denoise}


def exposures(count, size):
    """(kind of noise, clean, noisy, sigma that is told) of every image, in grey levels."""
    for patient in range(count):
        config = PhantomConfig(seed=HELD_OUT, image_size=(size, size))
        image = generate_image(CLASS_NAMES[patient % 3], patient=patient, config=config)
        clean = PEAK * image.clean.astype(np.float64)
        for sigma in (15.0, 25.0, 50.0):
            rng = np.random.default_rng([patient, int(sigma)])
            yield f"{sigma:g}", clean, (clean + rng.normal(0, sigma, clean.shape)).astype(np.float32), sigma
        noisy = (PEAK * image.noisy).astype(np.float32)
        yield OWN, clean, noisy, estimate_sigma(noisy).sigma


def flops_a_pixel(spec):
    """What XLA counts in one tile's program, a pixel of the result; None for what XLA does not compute."""
    if not isinstance(spec, DenoiseSpec) or spec.name != "dncnn":
        return None
    path = Path(spec.settings["weights"] or SHIPPED)
    model, _ = read_dncnn(path, sha256_of(path))
    for layer in model.layers:  # of the CPU's formulations it would count what is left of the sums
        layer.options = dataclasses.replace(layer.options, conv_impl="native")
    graph, state = nnx.split(model)
    side = 224 + 2 * model.reach
    program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    lowered = program.lower(state, jnp.zeros((1, side, side, 1), jnp.float32))
    return lowered.cost_analysis()["flops"] / 224**2


def measure(spec, clean, noisy, sigma):
    """(PSNR in dB, SSIM, CPU-seconds) of one image."""
    start = time.process_time()
    found = spec(noisy, sigma).astype(np.float64)
    seconds = time.process_time() - start
    ssim = structural_similarity(
        clean, found, data_range=PEAK, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return peak_signal_noise_ratio(clean, found, data_range=PEAK), ssim, seconds


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=3, help="phantoms")
    parser.add_argument("--size", type=int, default=448, help="their height and width")
    parser.add_argument("--rows", help="names of the rows to compute, with commas")
    parser.add_argument("--sure", type=Path, help="weights that were trained on noisy images alone")
    parser.add_argument("--clean", type=Path, help="weights of the same network, trained on clean ones")
    parser.add_argument(
        "--scratch", type=Path, default=Path("/tmp"), help="where KAIR's weights are rewritten"
    )
    options = parser.parse_args()
    rows = rows_of(options)
    if options.rows:
        rows = {name: rows[name] for name in options.rows.split(",")}
    found = {name: {} for name in rows}
    for kind, clean, noisy, sigma in exposures(options.images, options.size):
        for name, spec in rows.items():
            if kind not in found[name]:
                spec(noisy, sigma)  # compiles
            found[name].setdefault(kind, []).append(measure(spec, clean, noisy, sigma))
    kinds = list(found["none" if "none" in found else next(iter(found))])
    print(
        "| denoiser | " + " | ".join(f"{kind}: PSNR, SSIM" for kind in kinds) + " | CPU-s | kFLOP a pixel |"
    )
    print("|---" * (len(kinds) + 3) + "|")
    for name, by_kind in found.items():
        means = {kind: np.mean(values, axis=0) for kind, values in by_kind.items()}
        cells = [f"{psnr:.2f}, {ssim:.3f}" for psnr, ssim, _ in means.values()]
        seconds = np.mean([mean[2] for mean in means.values()])
        flops = flops_a_pixel(rows[name])
        cells += [f"{seconds:.3f}", "" if flops is None else f"{flops / 1000:.0f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
