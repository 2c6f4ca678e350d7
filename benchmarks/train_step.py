"""A training step of ResNet-50 on this CPU: ours beside PyTorch's, alternately, in one run.

    python benchmarks/train_step.py [--batch 16] [--mode forward full stage3+ stage4] [--rounds 3] [--steps 3]

Same network (grey 224x224 input, three classes), batch, float32, AdamW, threads and frozen stages. "stage3+" freezes
stem, stage 1 and stage 2, "stage4" freezes stage 3 as well; frozen batch norm is in inference mode on both sides.
PyTorch gets channels_last, its fused optimizer and no gradient for frozen parameters. It is measured twice: as it
is installed, and with the memory setting that `osteojax train` makes for itself (see osteojax/devices/host_memory.py).

Each measurement is a process of its own, so that the thread pools do not fight; a figure is the median over the
rounds of the fastest step of a process. Needs PyTorch in the same environment: `pip install torch` (the CPU build);
the project itself does not.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time

import resnet

MODES = ("forward", "full", "stage3+", "stage4")
PRESETS = {"forward": "all", "full": "all"}
PEERS = ("ours", "torch", "torch, memory kept")


def jax_step(mode, batch, threads):
    """One call is one step (or one forward pass) of the project's own code."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from osteojax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    import jax

    from osteojax import config as configs

    config = configs.load("configs/train/paper_resnet50.py")
    config.preset = PRESETS.get(mode, mode)
    if mode != "forward":
        return resnet.our_step(config, batch, 224)[0]
    recipe, state = resnet.initial(config)
    image = resnet.random_batch(batch, 224)["image"]
    evaluate = jax.jit(recipe.network.eval_function())
    forward = evaluate.lower(state.params, state.batch_stats, image).compile()
    return lambda: forward(state.params, state.batch_stats, image).block_until_ready()


def torch_step(mode, batch, threads):
    """The same in PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = resnet.torch_model(PRESETS.get(mode, mode))
    x = torch.rand(batch, 1, 224, 224).to(memory_format=torch.channels_last)
    y = torch.randint(0, 3, (batch,))
    if mode == "forward":
        model.eval()

        @torch.inference_mode()
        def forward():
            return model(x)

        return forward
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    return step


def measure(peer, mode, batch, steps, threads):
    """Images a second of the fastest of `steps` steps, after one that warms up."""
    if peer == "torch, memory kept":
        from osteojax.devices.host_memory import keep_freed_memory

        keep_freed_memory()
    step = (jax_step if peer == "ours" else torch_step)(mode, batch, threads)
    step()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return batch / min(seconds)


def main():
    """Alternates the peers and prints images/s and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[16])
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        rate = measure(
            arguments.peer, arguments.mode[0], arguments.batch[0], arguments.steps, arguments.threads
        )
        print(rate)
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("train_step.py compares with PyTorch, which is not installed here: pip install torch")
    print("images/s; ratio of ours to each (above 1: ours is faster)")
    print(f"{'mode':10}{'batch':>6}{'ours':>9}{'torch':>9}{'ratio':>8}{'memory kept':>13}{'ratio':>8}")
    for batch in arguments.batch:
        for mode in arguments.mode:
            rates = {peer: [] for peer in PEERS}
            for _ in range(arguments.rounds):
                for peer in PEERS:
                    command = [
                        sys.executable,
                        __file__,
                        "--peer",
                        peer,
                        "--mode",
                        mode,
                        "--batch",
                        str(batch),
                    ]
                    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    rates[peer].append(float(done.stdout))
            ours, torch, kept = (statistics.median(rates[peer]) for peer in PEERS)
            print(
                f"{mode:10}{batch:6}{ours:9.2f}{torch:9.2f}{ours / torch:8.2f}{kept:13.2f}{ours / kept:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
