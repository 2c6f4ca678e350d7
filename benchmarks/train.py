"""Training ResNet-50 from a dataset on disk, end to end: ours, ours from the frozen prefix's cache, and PyTorch.

    python benchmarks/train.py [--preset stage4] [--examples 128] [--batch 32] [--epochs 4] [--rounds 3]

One job for all: the same prepared dataset, read from disk in another order each epoch, the same frozen stages with
their batch norm in inference mode, AdamW, clipping, float32, no augmentation, the same threads; nothing is validated.
PyTorch gets channels_last, its fused optimizer, no gradient for what is frozen, the memory setting that `osteojax
train` makes for itself, and the decoded images in memory from the first epoch on.

Each measurement is a process of its own that trains for so many epochs; its rate is that of the epochs behind the
first, from wall time: without start and compilation, with the reading of the data, shuffling, and logging.
The building is timed apart. The peers take turns, round by round; a figure is the median over the rounds. Needs
PyTorch in the same environment (`pip install torch`); the project itself does not.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import resnet

PEERS = ("ours", "ours, cached", "torch")


def write_dataset(folder, examples, size=224):
    """A prepared dataset of smooth random images: what they show does not change the time."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    from data_prep.preprocess import PreprocessSpec
    from data_prep.shards import Example, write_shards

    classes = ("healthy", "osteopenia", "osteoporosis")

    def image(example):
        noise = gaussian_filter(np.random.default_rng(int(example.id, 16)).normal(size=(size, size)), 3)
        scaled = (noise - noise.min()) / np.ptp(noise)
        return (np.round(scaled * 4096) / 4096).astype(np.float32)[..., None]

    rows = [Example(f"{i:016x}", f"{i}.png", classes[i % 3], f"p{i}", f"p{i}") for i in range(examples)]
    spec = PreprocessSpec(image_size=size).to_dict()
    description = {"preprocessing": spec, "class_names": list(classes), "fingerprint": "random", "seed": 0}
    write_shards(
        folder, {"train": rows}, image, image_size=size, class_names=classes, description=description
    )


def ours(data, workdir, preset, batch, epochs, cached):
    """`osteojax train`, in this process; images/s of the epochs behind the first."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from osteojax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    from osteojax import config as configs
    from osteojax.data.dataset import PreparedDataset
    from osteojax.train.loop import train

    config = configs.load("configs/train/paper_resnet50.py")
    config.update(preset=preset, epochs=float(epochs), init="random")
    config.data.update(dir=str(data), batch_size=batch)
    config.eval.split = "none"
    config.checkpoint.every_steps = 10**9  # the last step alone
    config.train.cache_prefix = cached
    steps = -(-PreparedDataset.open(data).splits["train"] // batch)
    config.log_every = steps  # a line an epoch; it says how long a step took, waiting included
    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    epochs_seconds = [line["step_seconds"] * steps for line in lines if "step_seconds" in line]
    return len(epochs_seconds[1:]) * PreparedDataset.open(data).splits["train"] / sum(epochs_seconds[1:])


def torchs(data, preset, batch, epochs, threads):
    """The same in PyTorch."""
    from osteojax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.utils.data import DataLoader, TensorDataset

    from osteojax.data.dataset import PreparedDataset

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    source = PreparedDataset.open(data).source("train")
    image, label = source.read(range(len(source)))
    dataset = TensorDataset(
        torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))), torch.from_numpy(label).long()
    )
    model = resnet.torch_model(preset)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    ends = []
    for _ in range(epochs):
        for x, y in DataLoader(dataset, batch, shuffle=True):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
        ends.append(time.perf_counter())
    return (epochs - 1) * len(source) / (ends[-1] - ends[0])


def measure(peer, arguments, data, cache):
    """Images/s of a process of its own."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, "--peer", peer, "--data", str(data), "--workdir", workdir]
        for name in ("preset", "batch", "epochs", "threads"):
            command += [f"--{name}", str(getattr(arguments, name))]
        done = subprocess.run(
            command,
            check=True,
            env=os.environ | {"OSTEOJAX_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return float(done.stdout.split()[-1])


def main():
    """Alternates the peers and prints images/s and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="stage4", choices=("head", "stage4", "stage3+", "all"))
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for hidden in ("--peer", "--data", "--workdir"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    job = (arguments.preset, arguments.batch, arguments.epochs)
    if arguments.peer == "torch":
        print(torchs(arguments.data, *job, arguments.threads))
        return
    if arguments.peer:
        print(ours(arguments.data, Path(arguments.workdir) / "run", *job, arguments.peer == "ours, cached"))
        return
    peers = [peer for peer in PEERS if peer != "torch" or importlib.util.find_spec("torch")]
    if "torch" not in peers:
        print("PyTorch is not installed here (pip install torch): only ours are measured")
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder) / "data", Path(folder) / "cache"
        write_dataset(data, arguments.examples)
        began = time.perf_counter()
        measure("ours, cached", arguments, data, cache)
        first = time.perf_counter() - began
        began = time.perf_counter()
        measure("ours, cached", arguments, data, cache)
        building = first - (time.perf_counter() - began)
        rates = {peer: [] for peer in peers}
        for _ in range(arguments.rounds):
            for peer in peers:
                rates[peer].append(measure(peer, arguments, data, cache))
    figures = {peer: statistics.median(of_peer) for peer, of_peer in rates.items()}
    print(f"{arguments.preset}, batch {arguments.batch}, {arguments.threads} threads: images/s, end to end")
    for peer, figure in figures.items():
        ratio = f"   {figure / figures['torch']:.2f} x torch" if "torch" in figures else ""
        spread = f"{min(rates[peer]):.2f} to {max(rates[peer]):.2f}"
        print(f"{peer:14}{figure:8.2f}   ({spread}){ratio}", flush=True)
    print(f"building the cache of {arguments.examples} examples: {building:.1f} s, once")


if __name__ == "__main__":
    main()
