"""From one chip to hundreds: where the bottleneck sits, what feeds it, and what it costs.

    python benchmarks/scale_study.py --out=FOLDER [--price=1.2] [--images=300000]
    python benchmarks/scale_study.py --out=FOLDER --source=../shared/data/knee --measure

The first compiles the paper's step, 64 images a chip in bfloat16, for each slice (needs libtpu, no TPU; minutes each;
FOLDER keeps what is compiled) and prints the table. The second measures on this machine what feeds a slice: images/s of
the preparation and of the loader for each core, and seconds of a checkpoint.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import resnet

TOPOLOGIES = (
    "v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5e:8x8*2", "v6e:8x8", "v5p:4x4x4", "v4:2x2x2",
)  # fmt: skip
A_CHIP = 64


def main() -> None:
    """Prints one of the two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--images", type=int, default=300_000)
    parser.add_argument("--price", type=float)
    parser.add_argument("--measure", action="store_true", help="measure what feeds the chips")
    parser.add_argument("--source", help="radiographs to prepare for that")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.measure:
        measure(arguments.out, arguments.source)
        return
    print(
        "| slice | chips | batch | step ms | bound by | ICI MB | DCN MB | images/s | each host feeds | hours "
        "| chip-hours | cost |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.topologies:
        print(row(report(arguments.out, name, arguments.images), arguments.price), flush=True)


def report(out: Path, name: str, images: int) -> dict:
    """What compile-check says of a slice; kept."""
    from osteojax.compile_check.hardware import Topology

    file = out / f"{name.replace(':', '_').replace('*', '_')}.json"
    if not file.is_file():
        place = Topology.of(name)
        batch = A_CHIP * math.prod(place.sides) * place.slices
        command = [
            sys.executable,
            "-m",
            "osteojax",
            "compile-check",
            "--config=configs/train/paper_resnet50.py",
        ]
        command += [
            f"--topology={name}",
            "--config.model.dtype=bfloat16",
            f"--config.data.batch_size={batch}",
        ]
        done = subprocess.run(
            [*command, f"--images={images}", "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
        file.write_text(done.stdout)
    return json.loads(file.read_text())


def row(found: dict, price: float | None) -> str:
    """A line of the table."""
    cost = "-" if price is None else f"{price * found['hours'] * found['chips']:.2f}"
    return (
        f"| {found['topology']} | {found['chips']} | {found['batch_size']} | {found['step_seconds'] * 1e3:.2f} "
        f"| {found['bound']} | {found['sent_bytes']['ici'] / 1e6:.0f} | {found['sent_bytes']['dcn'] / 1e6:.1f} "
        f"| {found['images_per_second']:,.0f} "
        f"| {found['host_images_per_second']:,.0f} images/s, {found['host_bytes_per_second'] / 1e9:.2f} GB/s "
        f"| {found['hours']:.3f} | {found['hours'] * found['chips']:.2f} | {cost} |"
    )


def measure(out: Path, source: str | None) -> None:
    """Prints what one core prepares and loads, and how long a checkpoint takes."""
    data = out / "data"
    options = ["--config.workers=0", "--config.audit.near_duplicates=False", "--config.audit.shortcuts=False"]
    if source is None:
        options += ["--config.phantom.n_patients=60", "--config.phantom.image_size=(1024, 1024)"]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        data = Path(scratch) / "data"
        command = [
            "taskset",
            "-c",
            "0",
            sys.executable,
            "-m",
            "osteojax",
            "prep",
            f"--source={source or 'phantom'}",
        ]
        began = time.perf_counter()
        subprocess.run([*command, f"--out={data}", "--config=configs/prep/prep.py", *options], check=True)
        seconds = time.perf_counter() - began
        print(f"preparation, one core, whole command: {_count(data) / seconds:.2f} images/s", flush=True)
        print(f"loader, one core: {_loader(data):.0f} images/s")
        print(f"checkpoint of ResNet-50 with AdamW, all learning: {_checkpoint(Path(scratch)):.1f} s")


def _count(data: Path) -> int:
    from osteojax.data.dataset import PreparedDataset

    return sum(PreparedDataset.open(data).splits.values())


def _loader(data: Path) -> float:
    """Images/s from shards to host batches of 32, in a process of one core."""
    code = (
        "import sys, time, jax\n"
        "from osteojax.data.batches import plan_for, train_iterator\n"
        "from osteojax.data.dataset import PreparedDataset\n"
        "from osteojax.devices.mesh import batch_sharding, make_mesh\n"
        "source = PreparedDataset.open(sys.argv[1]).source('train')\n"
        "plan = plan_for(batch_sharding(make_mesh()), len(source), 32)\n"
        "batches = train_iterator(source, plan, seed=0, steps=20 * plan.steps, threads=1)\n"
        "next(batches)\n"
        "began, count = time.perf_counter(), 0\n"
        "for batch in batches:\n"
        "    count += int(batch['mask'].sum())\n"
        "print(count / (time.perf_counter() - began))\n"
    )
    command = ["taskset", "-c", "0", sys.executable, "-c", code, str(data)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _checkpoint(folder: Path) -> float:
    """Seconds until a checkpoint is whole on this disk."""
    from osteojax import config as configs
    from osteojax.run.checkpoint import Checkpoints

    _, state = resnet.initial(configs.load("configs/train/paper_resnet50.py", ["--config.preset=all"]))
    began = time.perf_counter()
    checkpoints = Checkpoints(folder / "checkpoints", metric="cross_entropy", mode="min")
    checkpoints.save(state, {}, {"cross_entropy": 1.0})
    checkpoints.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
