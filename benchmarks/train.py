"""Training ResNet-50 from a dataset on disk, end to end: ours, ours from the frozen prefix's cache, and PyTorch.

    python benchmarks/train.py [--preset stage4] [--examples 128] [--batch 32] [--epochs 1 4] [--rounds 3]

One job for all: the same prepared dataset, read from disk in another order each epoch, the same frozen stages with
their batch norm in inference mode, AdamW, clipping, float32, no augmentation, the same threads; nothing is validated.
PyTorch gets channels_last, its fused optimizer, no gradient for what is frozen, the memory setting that `osteojax
train` makes for itself, and the decoded images in memory from the first epoch on.

Each measurement is a process of its own that trains for so many epochs; a rate is the examples of the epochs between
two lengths divided by the difference of their wall times, so that start, compilation and the cache's building cancel.
The building is timed apart. The peers take turns, round by round; a figure is the median over the rounds. Needs
PyTorch in the same environment (`pip install torch`); the project itself does not.
"""

import argparse
import importlib.util
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
    """`osteojax train`, in this process."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from osteojax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    from osteojax import config as configs
    from osteojax.train.loop import train

    config = configs.load("configs/train/paper_resnet50.py")
    config.update(preset=preset, epochs=float(epochs), init="random")
    config.data.update(dir=str(data), batch_size=batch)
    config.eval.split = "none"
    config.checkpoint.every_steps = 10**9  # the last step alone
    config.train.cache_prefix = cached
    train(config, workdir)


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
    for _ in range(epochs):
        for x, y in DataLoader(dataset, batch, shuffle=True):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()


def seconds(peer, arguments, data, epochs, cache):
    """Wall time of a process that trains for so many epochs."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, __file__, "--peer", peer, "--data", str(data), "--workdir", workdir]
        command += ["--preset", arguments.preset, "--batch", str(arguments.batch), "--epochs", str(epochs)]
        command += ["--threads", str(arguments.threads)]
        began = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            env=os.environ | {"OSTEOJAX_CACHE": str(cache)},
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def main():
    """Alternates the peers and prints images/s and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="stage4", choices=("head", "stage4", "stage3+", "all"))
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for hidden in ("--peer", "--data", "--workdir"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer == "torch":
        torchs(arguments.data, arguments.preset, arguments.batch, arguments.epochs[0], arguments.threads)
        return
    if arguments.peer:
        ours(
            arguments.data,
            Path(arguments.workdir) / "run",
            arguments.preset,
            arguments.batch,
            arguments.epochs[0],
            arguments.peer == "ours, cached",
        )
        return
    peers = [peer for peer in PEERS if peer != "torch" or importlib.util.find_spec("torch")]
    if "torch" not in peers:
        print("PyTorch is not installed here (pip install torch): only ours are measured")
    short, long = arguments.epochs
    with tempfile.TemporaryDirectory() as folder:
        data, cache = Path(folder) / "data", Path(folder) / "cache"
        write_dataset(data, arguments.examples)
        first = seconds("ours, cached", arguments, data, short, cache)
        building = first - seconds("ours, cached", arguments, data, short, cache)
        rates = {peer: [] for peer in peers}
        for _ in range(arguments.rounds):
            for peer in peers:
                apart = [seconds(peer, arguments, data, epochs, cache) for epochs in (short, long)]
                rates[peer].append(arguments.examples * (long - short) / (apart[1] - apart[0]))
    figures = {peer: statistics.median(of_peer) for peer, of_peer in rates.items()}
    print(f"{arguments.preset}, batch {arguments.batch}, {arguments.threads} threads: images/s, end to end")
    for peer, figure in figures.items():
        ratio = f"   {figure / figures['torch']:.2f} x torch" if "torch" in figures else ""
        spread = f"{min(rates[peer]):.2f} to {max(rates[peer]):.2f}"
        print(f"{peer:14}{figure:8.2f}   ({spread}){ratio}", flush=True)
    print(f"building the cache of {arguments.examples} examples: {building:.1f} s, once")


if __name__ == "__main__":
    main()
