# ruff: noqa: E402 (threads are limited and the path is set before anything is imported)
"""`osteojax prep` beside its denoiser alone, in CPU-seconds of each image and of the command; how busy its workers are.

    python benchmarks/prep.py                              # pictures made here: PNG of 8 and 16 bits, DICOM
    python benchmarks/prep.py --source ../shared/data/knee --every 4

First what a worker does with an image, from the file's bytes to the finished image in the cache, and the denoiser alone
on the same pixels, in turns in this process. Then the whole command, on all pictures and on every fourth of them. The
difference is what the others cost, without what is paid once; the denoiser's own time for them is measured in this
process, on the same pixels with the same sigma, before and after. With and without the audit, by one worker, so that no
two cores share what they have in common; and once more by two, to see how busy they are: a worker is while it runs or
waits for a core that something else has.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import psutil
from PIL import Image
from scipy import ndimage

import data_prep.denoise.block_matching  # noqa: F401 (registers BM3D)
from data_prep.decode import decode, read_bytes
from data_prep.denoise.noise import estimate_sigma
from data_prep.denoise.registry import DenoiseSpec
from data_prep.image_task import ImageTask, Prepared, prepare_image
from data_prep.settings import read_settings
from data_prep.source import read_source
from osteojax import config
from tests.data_prep.decode.dicom_files import dicom

CLASSES = ("healthy", "osteopenia", "osteoporosis")
NO_AUDIT = ("--config.audit.near_duplicates=False", "--config.audit.shortcuts=False")


def write_pictures(root, count):
    """Texture and noise, no picture like another; a third of each format, 512, 768 and 1024 pixels."""
    for number in range(count):
        rng = np.random.default_rng(number)
        side = (512, 768, 1024)[number // 3 % 3]
        coarse, fine = (ndimage.gaussian_filter(rng.normal(size=(side, side)), s) * s for s in (24.0, 2.5))
        pixels = (120 + 60 * coarse + 15 * fine + rng.normal(0, 8, (side, side))).clip(0, 255)
        folder = root / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        if number // len(CLASSES) % 3 == 0:
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        elif number // len(CLASSES) % 3 == 1:
            Image.fromarray((pixels * 256).astype(np.uint16)).save(folder / f"{number}.png")
        else:
            stored = (pixels * 16).astype(np.uint16)
            data = dicom(stored, 12, Modality="DX", WindowCenter=2048, WindowWidth=4096)
            (folder / f"{number}.dcm").write_bytes(data)


def copy(files, source, root):
    """A source of some of another's files, in the same folders."""
    for file in files:
        at = root / file.relative_to(source)
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, at)


def denoise(files, profile):
    """CPU-seconds of the denoiser alone."""
    spec, total = DenoiseSpec.of("bm3d", {"profile": profile}), 0.0
    spec(
        np.random.default_rng(0).normal(100.0, 20.0, (64, 64)).astype(np.float32), 20.0
    )  # loads what is compiled
    for file in files:
        pixels = decode(read_bytes(file)).pixels
        sigma = estimate_sigma(pixels).sigma
        start = time.process_time()
        spec(pixels, sigma)
        total += time.process_time() - start
    return total


def inside(files, settings):
    """CPU-seconds of all that a worker does with the images of white noise, of their denoiser alone, and how many."""
    whole, own, taken = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as cache:
        for file in files:
            pixels = decode(read_bytes(file)).pixels
            sigma = estimate_sigma(pixels).sigma
            start = time.process_time()
            settings.spec.denoise(pixels, sigma)
            middle = time.process_time()
            prepared = prepare_image(ImageTask(file, None, settings.spec, settings.limits.of_decoding, cache))
            end = time.process_time()
            if isinstance(prepared, Prepared) and prepared.denoising == "white":
                own, whole, taken = own + middle - start, whole + end - middle, taken + 1
    return whole, own, taken


def children():
    """CPU-seconds of all processes that have been waited for, and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prep(source, profile, *flags):
    """Runs the command; returns its CPU-seconds, and how busy the least busy of its workers is."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "osteojax", "prep", f"--source={source}", f"--out={folder}/out"]
        command += ["--config=configs/prep/prep.py", f"--config.denoise.profile={profile}"]
        command += ["--config.split.train=0.4", "--config.split.val=0.3", "--config.split.test=0.3", *flags]
        before = children()
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        samples = watch(process, Path(folder) / "out.partial" / "cache")
        errors = process.communicate()[1]
        if process.returncode:
            sys.exit(errors.decode()[-2000:])
    return children() - before, least_busy(samples)


def watch(process, cache):
    """Of each worker, while there are finished images and it lives: (seconds, seconds running or runnable)."""
    samples = {}
    while process.poll() is None:
        time.sleep(0.05)
        if not cache.is_dir() or not any(cache.iterdir()):
            continue
        try:
            for child in psutil.Process(process.pid).children():
                running, waiting, _ = Path(f"/proc/{child.pid}/schedstat").read_text().split()
                busy = (int(running) + int(waiting)) / 1e9
                samples.setdefault(child.pid, []).append((time.perf_counter(), busy))
        except (psutil.NoSuchProcess, OSError, ValueError):  # it has just ended
            continue
    return samples


def least_busy(samples):
    """The smallest share over the workers; a process that never worked for a second is none."""
    shares = []
    for found in samples.values():
        (start, before), (end, after) = found[0], found[-1]
        if after - before > 1:
            # The last worker waits for no one; the others end when there is nothing left to take.
            shares.append((after - before) / (end - start))
    return min(shares, default=float("nan"))


def main():
    """Prints one row a way to run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--source", type=Path, help="class folders or labels.csv; without it pictures are made"
    )
    parser.add_argument("--count", type=int, default=60, help="of the pictures that are made")
    parser.add_argument("--every", type=int, default=1, help="takes every n-th file of the source")
    parser.add_argument("--profile", default="fast", help="of BM3D")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source
        if source is None:
            source = Path(folder) / "made"
            write_pictures(source, options.count)
        settings = config.load("configs/prep/prep.py")
        listed = read_source(source.resolve(), settings.class_names, settings.class_aliases)
        files = [listed.root / record.file for record in listed.records][:: options.every]
        few = files[::4]
        rest = [file for file in files if file not in few]
        copy(files, listed.root, Path(folder) / "all")
        copy(few, listed.root, Path(folder) / "few")
        own = denoise(rest, options.profile)
        settings.denoise.profile = options.profile
        whole, alone, taken = inside(files, read_settings(settings))
        share = f"{whole / alone - 1:+.1%}" if taken else "none has white noise"
        print(
            f"image by image, {taken} of {len(files)}: {whole:.2f} CPU-s, the denoiser alone {alone:.2f}: {share}"
        )
        rows = {}
        for name, flags in (("without the audit", NO_AUDIT), ("with the audit", ())):
            flags = ("--config.workers=1", *flags)
            rows[name] = [prep(Path(folder) / part, options.profile, *flags)[0] for part in ("all", "few")]
        own = (own + denoise(rest, options.profile)) / 2
        busy = prep(Path(folder) / "all", options.profile, "--config.workers=2", *NO_AUDIT)[1]
    print(f"{len(rest)} of {len(files)} pictures; the denoiser alone: {own:.2f} CPU-s")
    print("| | CPU-s of all | of a quarter | of the others | beyond the denoiser |")
    print("|---|---|---|---|---|")
    for name, (most, least) in rows.items():
        cost = most - least
        print(f"| {name} | {most:.2f} | {least:.2f} | {cost:.2f} | {cost / own - 1:+.1%} |")
    print(f"of two workers the less busy one is busy {busy:.1%} of the time")


if __name__ == "__main__":
    main()
