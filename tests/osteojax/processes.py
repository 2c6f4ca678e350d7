"""The console script with the network of `small`, in processes of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import small

SCRIPT = Path(small.__file__)


def command(config_file, workdir, *flags, devices=8):
    root = str(SCRIPT.parents[2])
    simulated = f"--xla_force_host_platform_device_count={devices}"
    environment = dict(os.environ, XLA_FLAGS=simulated, PYTHONPATH=root)
    arguments = [
        sys.executable,
        str(SCRIPT),
        "train",
        f"--config={config_file}",
        f"--workdir={workdir}",
        *flags,
    ]
    return {"args": arguments, "env": environment, "cwd": root}


def wait_for_step(workdir, step, process):
    """Returns once the run has written a line of this step or later."""
    while process.poll() is None:
        path = workdir / "timing.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(file, workdir, processes, devices, *flags, environment=()):
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    started = []
    for i in range(processes):
        member = (coordinator, f"--processes={processes}", f"--process_id={i}", *flags)
        call = command(file, workdir, *member, devices=devices)
        call["env"] |= dict(environment)
        started.append(subprocess.Popen(**call, stderr=subprocess.PIPE, text=True))
    return started
