"""A sweep as one array job of SLURM, or as one Job a run on Kubernetes.

Each task does one run of the sweep by its number (`osteojax sweep --only=N`); the folder is shared, so that what is
finished is not redone and `--status` works from anywhere.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osteojax.errors import UserError
from osteojax.files import write_atomically


def submit_slurm(out: Path, count: int, command: Sequence[str], options: Sequence[str]) -> str:
    """Writes `out/array.sbatch` and submits it; what sbatch says.

    Args:
        out: folder of the sweep, on a file system that the nodes share.
        count: of the runs.
        command: that does them, without `--only`.
        options: further flags of sbatch, such as `--partition=gpu`.

    Raises:
        UserError: sbatch is not there or refuses.
    """
    script = out / "array.sbatch"
    write_atomically(
        script,
        "#!/bin/bash\n"
        f"#SBATCH --array=0-{count - 1}\n"
        f"#SBATCH --output={out.resolve()}/slurm-%A_%a.log\n"
        # A node that is taken away gives its task back to the queue; the run goes on where it was.
        "#SBATCH --requeue\n"
        "#SBATCH --signal=B:TERM@120\n"
        "set -u\n"
        f'exec {shlex.join(command)} "--only=$SLURM_ARRAY_TASK_ID"\n',
    )
    return _call(["sbatch", *options, str(script)])


def submit_kubernetes(out: Path, count: int, command: Sequence[str], image: str, claim: str) -> str:
    """Writes a Job for each run to `out/jobs.json` and applies it; what kubectl says.

    Args:
        out: folder of the sweep, on the volume of the claim.
        count: of the runs.
        command: that does them, without `--only`.
        image: container image that has osteojax.
        claim: PersistentVolumeClaim that holds sweep and data, mounted where they lie here.

    Raises:
        UserError: kubectl is not there or refuses.
    """
    path = out / "jobs.json"
    write_atomically(path, json.dumps(jobs(out, count, command, image, claim), indent=1) + "\n")
    return _call(["kubectl", "apply", "-f", str(path)])


def jobs(out: Path, count: int, command: Sequence[str], image: str, claim: str) -> dict[str, Any]:
    """The Jobs as a List of the Kubernetes API."""
    name = re.sub(r"[^a-z0-9-]+", "-", f"osteojax-{out.name}".lower()).strip("-")[:50]
    mount = os.path.commonpath([str(out.resolve().parent), os.getcwd()]) if out.is_absolute() else os.getcwd()
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": f"{name}-{number}", "labels": {"app": "osteojax", "sweep": name}},
                "spec": {
                    "backoffLimit": 10,
                    "template": {
                        "spec": {
                            "restartPolicy": "OnFailure",
                            "containers": [
                                {
                                    "name": "run",
                                    "image": image,
                                    "command": [*command, f"--only={number}"],
                                    "workingDir": os.getcwd(),
                                    "volumeMounts": [{"name": "shared", "mountPath": mount}],
                                }
                            ],
                            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
                        }
                    },
                },
            }
            for number in range(count)
        ],
    }


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; start the sweep where it is") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise UserError(f"{command[0]} refuses: {said}")
    return done.stdout.strip()
