"""Several processes as one run: `jax.distributed`, started only when asked for or on a recognised cluster."""

import logging
import os
import re

import jax

from data_prep.errors import UserError

log = logging.getLogger(__name__)

# The variable that tells each kind of cluster, as `jax.distributed` itself detects them, and how many tasks there are.
CLUSTERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"),
}


def recognised() -> str | None:
    """The kind of cluster that this process was started on as one of several; None for a single process."""
    for name, (tasks, marker) in CLUSTERS.items():
        if marker in os.environ and int(os.environ.get(tasks, "1")) > 1:
            return name
    if "KUBERNETES_SERVICE_HOST" in os.environ and "JOBSET_NAME" in os.environ:
        return "Kubernetes"
    if len([name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]) > 1:
        return "Cloud TPU"
    return None


def start(
    mode: str = "auto",
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes of the run.

    Args:
        mode: "auto" (only on a recognised cluster, or if a coordinator is given), "on", or "off".
        coordinator: host:port of process 0; found out on a recognised cluster.
        processes: how many there are; likewise.
        process_id: which one this is; likewise.
        timeout: seconds to wait for the others.

    Raises:
        UserError: not all came; names the ones that did not.
    """
    if mode not in ("auto", "on", "off"):
        raise UserError(f"--distributed={mode} is not one of auto, on, off")
    cluster = recognised()
    if mode == "off" or (mode == "auto" and coordinator is None and cluster is None):
        return
    explicit = (coordinator, processes, process_id)
    if any(value is not None for value in explicit) and any(value is None for value in explicit):
        raise UserError("--coordinator, --processes and --process_id are given together or not at all")
    if coordinator is None and cluster is None:
        raise UserError("no cluster is recognised: give --coordinator, --processes and --process_id")
    try:
        jax.distributed.initialize(coordinator, processes, process_id, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        why = _who_is_missing(error, coordinator)
        raise UserError(f"the run could not start on all its hosts within {timeout} s: {why}") from error
    log.info("process %d of %d on %s", jax.process_index(), jax.process_count(), cluster or coordinator)


def _who_is_missing(error: Exception, coordinator: str | None) -> str:
    tasks = sorted(set(map(int, re.findall(r"task:(\d+)", str(error)))))
    if tasks:
        return (
            f"no word from process {', '.join(map(str, tasks))}; see why it did not start, or raise --timeout"
        )
    if "UNAVAILABLE" in str(error) or "DEADLINE" in str(error):
        return f"no answer from the coordinator {coordinator or '(process 0)'}; does its process run?"
    return str(error).splitlines()[0]
