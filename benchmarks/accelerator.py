"""Everything that only an accelerator can tell, in one command of less than nine minutes without a network.

    python benchmarks/accelerator.py [--out=FOLDER] [--seconds=500] [--tiny]

1. the tests that need an accelerator (tests/osteojax/test_accelerator.py);
2. the train step of ResNet-50 at batch 64, 128 and 256, in bfloat16 and float32, with each preset, beside PyTorch's
   where it is installed (channels_last, autocast for bfloat16, torch.compile where it works): two processes that take
   turns, rounds alternating; images/s of the fastest step, and peak memory;
3. the loader alone, beside the fastest step: what it must keep up with;
4. BM3D in JAX on the accelerator beside numba on all of this machine's cores.

What does not fit into --seconds is listed as skipped. The table is printed, and FOLDER/accelerator.json has it all.
`--tiny` does the same with sizes that a CPU manages in a minute, and smaller networks that are not each other's: it
shows that this command works, and no more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import resnet

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("all", "stage3+", "stage4", "head")
DTYPES = ("bfloat16", "float32")


class Sizes:
    """What is measured; smaller for a CPU."""

    def __init__(self, tiny: bool) -> None:
        self.batches = (2,) if tiny else (64, 128, 256)
        self.image = 32 if tiny else 224
        self.blocks = (1, 1, 1, 1) if tiny else (3, 4, 6, 3)
        self.presets = ("stage4",) if tiny else PRESETS
        self.steps, self.rounds = (1, 1) if tiny else (10, 2)
        self.examples = 16 if tiny else 1024
        self.bm3d_images, self.bm3d_size = (1, 32) if tiny else (32, 224)


def main() -> None:
    """Runs the parts in the order of their worth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--serve", choices=("ours", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = Sizes(arguments.tiny)
    if arguments.serve:
        serve(arguments.serve, sizes)
        return
    # JAX would take three quarters of the memory that PyTorch needs too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    deadline = time.monotonic() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict = {"tiny": arguments.tiny, "versions": versions()}

    def keep(name: str, value: object) -> None:
        """What is known so far is on disk: a time limit loses nothing."""
        found[name] = value
        (arguments.out / "accelerator.json").write_text(json.dumps(found, indent=1) + "\n")

    keep("tests", run_tests())
    print(f"tests that need an accelerator: {found['tests']}", flush=True)
    # A quarter of the time is for the parts behind it.
    keep("device", None)
    fastest = measure_steps(sizes, time.monotonic() + 0.75 * (deadline - time.monotonic()), keep)
    print(f"device: {found['device']}")
    keep("loader", measure_loader(sizes, fastest))
    keep("bm3d", measure_bm3d(sizes, deadline))
    print(f"\nall of it in {arguments.seconds - (deadline - time.monotonic()):.0f} s")


def versions() -> dict[str, str]:
    """Of what was measured; "" for what is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"cores": str(len(os.sched_getaffinity(0)))}
    for name in ("jax", "jaxlib", "torch", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def run_tests() -> str:
    """The last line of pytest's own summary."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/osteojax/test_accelerator.py",
        "-p",
        "no:cacheprovider",
    ]
    environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else done.stderr.strip()[-500:]


# --- the train step ---------------------------------------------------------------------------------------------------


class Peer:
    """A process that holds one framework, so that memory and thread pools are its own; it answers line by line."""

    def __init__(self, name: str, tiny: bool) -> None:
        self.name = name
        command = [sys.executable, __file__, "--serve", name, *(["--tiny"] if tiny else [])]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.device = self._answer()["device"]

    def ask(self, **question: object) -> dict:
        """The answer to one question; {"error": ...} where it could not be done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process of {self.name} ended", "device": None}

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def measure_steps(sizes: Sizes, deadline: float, keep: object) -> float:
    """Prints a row for each combination; images/s of our fastest bfloat16 step."""
    tiny = sizes.image < 224
    peers = [Peer("ours", tiny)] + ([Peer("torch", tiny)] if find_spec("torch") else [])
    keep("device", {peer.name: peer.device for peer in peers})
    if len(peers) == 1:
        print("PyTorch is not installed here: ours alone")
    print(
        f"\n{'preset':9}{'dtype':>10}{'batch':>7}{'ours':>10}{'torch':>10}{'ratio':>7}   memory MB, ours and torch"
    )
    rows, fastest = [], 0.0
    combinations = [(d, b, p) for b in reversed(sizes.batches) for d in DTYPES for p in sizes.presets]
    for dtype, batch, preset in combinations:
        row: dict = {"preset": preset, "dtype": dtype, "batch": batch, "images_per_second": {}, "memory": {}}
        rows.append(row)
        if time.monotonic() > deadline:
            row["skipped"] = "no time left"
            continue
        ready = []
        for peer in peers:
            answer = peer.ask(prepare=True, preset=preset, dtype=dtype, batch=batch)
            row["memory"][peer.name] = answer.get("memory")
            if "error" in answer:
                row.setdefault("errors", {})[peer.name] = answer["error"]
            else:
                ready.append(peer)
        for _ in range(sizes.rounds):
            for peer in ready:
                rate = batch / peer.ask(steps=sizes.steps)["seconds"]
                row["images_per_second"][peer.name] = max(rate, row["images_per_second"].get(peer.name, 0.0))
        keep("steps", rows)
        rates = row["images_per_second"]
        fastest = max(fastest, rates.get("ours", 0.0))
        shown = [f"{rates[name]:.1f}" if name in rates else "-" for name in ("ours", "torch")]
        ratio = f"{rates['ours'] / rates['torch']:.2f}" if len(rates) == 2 and not tiny else "-"
        memory = ", ".join("-" if m is None else f"{m / 1e6:.0f}" for m in row["memory"].values())
        print(f"{preset:9}{dtype:>10}{batch:7}{shown[0]:>10}{shown[1]:>10}{ratio:>7}   {memory}", flush=True)
        for name, error in row.get("errors", {}).items():
            print(f"  {name}: {error}")
    skipped = sum("skipped" in row for row in rows)
    if skipped:
        print(f"{skipped} of {len(rows)} combinations skipped: no time left")
    for peer in peers:
        peer.close()
    keep("steps", rows)
    return fastest


def serve(name: str, sizes: Sizes) -> None:
    """Answers questions on standard input until it ends."""
    # Only answers may go where the answers go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    make, device = {"ours": (our_step, our_device), "torch": (torch_step, torch_device)}[name]

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    answer(device=device())
    step = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question.pop("prepare", False):
                step = None  # frees what it held before the next one is made
                step, memory = make(sizes, **question)
                answer(memory=memory)
            else:
                answer(seconds=min(timed(step) for _ in range(question["steps"])))
        except Exception as error:  # one that does not fit must not cost the others
            answer(error=f"{type(error).__name__}: {str(error)[:300]}")


def timed(step) -> float:
    """Seconds of one call, which returns when the device is done."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def our_device() -> str:
    """As JAX calls it."""
    import jax

    return f"{jax.devices()[0].device_kind} ({jax.devices()[0].platform})"


def our_step(sizes: Sizes, preset: str, dtype: str, batch: int):
    """A step of the project's own code, warmed up, and the bytes that its program holds."""
    from osteojax import config as configs

    config = configs.load("configs/train/paper_resnet50.py")
    config.preset, config.model.dtype = preset, dtype
    config.model.name = "resnet50" if sizes.image >= 224 else "resnet18"
    step, facts = resnet.our_step(config, batch, sizes.image)
    step()
    return step, facts.get("step_temporary_bytes", 0) + facts.get("step_argument_bytes", 0) or None


def torch_device() -> str:
    """As PyTorch calls it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def torch_step(sizes: Sizes, preset: str, dtype: str, batch: int):
    """The same in PyTorch, warmed up, and the most memory that it held."""
    import torch
    from torch import nn
    from torch.nn import functional

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.backends.cudnn.benchmark = True
        # JAX multiplies float32 in TF32 on such GPUs too.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = resnet.torch_model(preset, sizes.blocks).to(device)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    x = torch.rand(batch, 1, sizes.image, sizes.image, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(0, 3, (batch,), device=device)
    run = model
    if on_gpu and find_spec("triton"):
        run = torch.compile(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = run(x)
        functional.cross_entropy(logits.float(), y).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()

    step()
    step()  # the first chooses algorithms
    return step, torch.cuda.max_memory_allocated() if on_gpu else None


# --- the loader and the denoiser --------------------------------------------------------------------------------------


def measure_loader(sizes: Sizes, fastest: float) -> dict:
    """Images/s from shards to the device, without a step, by number of threads."""
    import jax

    from data_prep.preprocess import PreprocessSpec
    from data_prep.shards import Example, write_shards
    from osteojax.data.batches import plan_for, to_devices, train_iterator
    from osteojax.data.dataset import PreparedDataset
    from osteojax.devices.mesh import batch_sharding, make_mesh

    rates: dict = {}
    rows = batch_sharding(make_mesh(1, 1, jax.devices()[:1]))
    classes = ("healthy", "osteopenia", "osteoporosis")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        keys = range(sizes.examples)
        write_shards(
            data,
            {"train": [Example(f"{k:016x}", f"{k}.png", classes[k % 3], f"p{k}", f"p{k}") for k in keys]},
            lambda example: _texture(int(example.id, 16), sizes.image),
            image_size=sizes.image,
            class_names=classes,
            description={
                "preprocessing": PreprocessSpec(image_size=sizes.image).to_dict(),
                "class_names": list(classes),
                "fingerprint": "benchmark",
                "seed": 0,
            },
        )
        source = PreparedDataset.open(data).source("train")
        batch = max(sizes.batches)
        plan = plan_for(rows, len(source), batch)
        print("\nloader alone, images/s (our fastest step takes " + f"{fastest:.0f})")
        for threads in (1, 2, 4, 8, 16):
            if threads > max(2, len(os.sched_getaffinity(0))):
                break
            steps = max(2, 3 * plan.steps)
            batches = train_iterator(source, plan, seed=0, steps=steps, threads=threads)
            jax.block_until_ready(to_devices(next(batches), rows))  # starts the threads
            began, count = time.perf_counter(), 0
            for each in batches:
                jax.block_until_ready(to_devices(each, rows))
                count += batch
            rates[threads] = count / (time.perf_counter() - began)
            print(f"  {threads:2} threads: {rates[threads]:.0f}", flush=True)
    return {"images_per_second": rates, "fastest_step": fastest}


def _texture(seed: int, size: int) -> np.ndarray:
    """Smooth noise of the prepared images' grey levels: compresses as they do, about."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.random((size // 8, size // 8)), np.ones((8, 8)))
    image = np.clip(coarse + 0.02 * rng.normal(size=(size, size)), 0, 1)
    return (np.round(image * 4096) / 4096).astype(np.float32)[..., None]


def measure_bm3d(sizes: Sizes, deadline: float) -> list[dict]:
    """Seconds an image: a batch on the accelerator, and the same images over all cores with numba."""
    from data_prep.denoise.bm3d import FAST, NP
    from data_prep.denoise.bm3d.jax_backend import denoise_batch

    rng = np.random.default_rng(0)
    images = [
        _texture(k, sizes.bm3d_size)[..., 0] * 10 + rng.normal(size=(sizes.bm3d_size,) * 2)
        for k in range(sizes.bm3d_images)
    ]
    images = [image.astype(np.float32) for image in images]
    rows = []
    print(f"\nBM3D, seconds an image of {sizes.bm3d_size}x{sizes.bm3d_size}, {len(images)} at a time")
    print(f"{'profile':9}{'accelerator':>12}{'numba, all cores':>18}{'ratio':>7}{'difference':>12}")
    # Spawned: this process has an accelerator open, which a fork would share.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        for profile in (NP, FAST):
            if time.monotonic() > deadline:
                rows.append({"profile": profile.name, "skipped": "no time left"})
                continue
            ways = {
                "accelerator": partial(denoise_batch, images, profile),
                "numba": lambda name=profile.name: list(pool.map(partial(_numba, profile=name), images)),
            }
            results = {name: way() for name, way in ways.items()}  # compiles
            seconds = {name: min(timed(way) for _ in range(2)) / len(images) for name, way in ways.items()}
            worst = max(float(np.abs(a - b).max()) for a, b in zip(*results.values(), strict=True))
            rows.append({"profile": profile.name, "seconds": seconds, "difference": worst})
            ratio = seconds["numba"] / seconds["accelerator"]
            print(
                f"{profile.name:9}{seconds['accelerator']:12.4f}{seconds['numba']:18.4f}{ratio:7.2f}{worst:12.1e}",
                flush=True,
            )
    return rows


def _numba(image: np.ndarray, profile: str) -> np.ndarray:
    from data_prep.denoise.bm3d import PROFILES, numba_backend

    return numba_backend.denoise(image, PROFILES[profile])


if __name__ == "__main__":
    main()
