"""Several processes as one run: `jax.distributed`, started only when asked for or on a recognised cluster."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator

import jax
from jax._src.clusters import ClusterEnv  # public only through jax.distributed.initialize

from osteojax.devices.watch import Watch
from osteojax.errors import UserError

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


@contextlib.contextmanager
def joined(
    mode: str = "auto",
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> Iterator[None]:
    """Context: this process is one of several, and ends within seconds if another is gone (`osteojax.devices.watch`).

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
        yield
        return
    explicit = (coordinator, processes, process_id)
    if any(value is not None for value in explicit) and any(value is None for value in explicit):
        raise UserError("--coordinator, --processes and --process_id are given together or not at all")
    if coordinator is None and cluster is None:
        raise UserError("no cluster is recognised: give --coordinator, --processes and --process_id")
    if coordinator is None:
        # What `jax.distributed.initialize` would find out by itself; the roll call needs it first.
        coordinator, processes, process_id, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, timeout
        )
    assert coordinator is not None and processes is not None and process_id is not None
    watch = Watch(roll_call(coordinator, processes, process_id, timeout), relay=process_id == 0)
    try:
        jax.distributed.initialize(coordinator, processes, process_id, initialization_timeout=timeout)
        _speak_as(process_id)
        log.info("process %d of %d on %s", process_id, processes, cluster or coordinator)
        yield
    except BaseException as error:
        if not isinstance(error, UserError):
            watch.linger()  # a collective fails here when another process dies; the watch knows which one
        watch.leave(failed=True)
        raise
    watch.leave()


def _speak_as(process_id: int) -> None:
    """Every line says whose it is; only the first process tells what goes well."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname).1s process {process_id}: %(message)s", "%H:%M:%S")
        )
    if process_id:
        for package in ("osteojax", "data_prep"):
            logging.getLogger(package).setLevel(logging.WARNING)


def roll_call(coordinator: str, processes: int, process_id: int, timeout: float) -> dict[str, socket.socket]:
    """Returns when all processes are there, with the open lines to them: of process 0 to all others, of these to it.

    `jax.distributed` waits for all as well, but where one does not come it aborts every process with a stack trace
    that names none. So process 0 first listens on the coordinator's address itself: each of the others calls in
    with its number and its host's name and waits for the word to go on.

    Args:
        coordinator: host:port of process 0.
        processes: how many there are.
        process_id: which one this is.
        timeout: seconds to wait for the others.

    Raises:
        UserError: not all came; names those that did not, and on the others the coordinator that did not answer.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={coordinator} is not host:port")
    if process_id == 0:
        return _listen(int(port), processes, time.monotonic() + timeout)
    return {f"process 0 at {coordinator}": _call_in(host, int(port), process_id, time.monotonic() + timeout)}


def _listen(port: int, processes: int, deadline: float) -> dict[str, socket.socket]:
    present: dict[int, str] = {0: socket.gethostname()}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise UserError(
                f"port {port} of the coordinator cannot be used: {error.strerror}; choose another"
            ) from error
        callers: dict[int, socket.socket] = {}
        while len(present) < processes:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                caller = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = ", ".join(_name(i) for i in range(processes) if i not in present)
                came = ", ".join(f"{i} on {host}" for i, host in sorted(present.items()))
                raise UserError(
                    f"no word from {missing} in time (came: {came}); see why it did not start"
                ) from None
            caller.settimeout(5)
            with contextlib.suppress(OSError, ValueError):  # a port scanner, a caller that died
                number, _, name = caller.recv(300).decode().strip().partition(" ")
                if int(number) in range(1, processes):
                    present[int(number)] = name
                    callers[int(number)] = caller
        for caller in callers.values():
            with contextlib.suppress(OSError):
                caller.sendall(b"go")
        server.close()  # jax.distributed listens on this port next
        stack.pop_all()  # the lines stay open
    return {f"process {i} on {present[i]}": caller for i, caller in callers.items()}


def _call_in(host: str, port: int, process_id: int, deadline: float) -> socket.socket:
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            line = stack.enter_context(socket.create_connection((host, port), timeout=5))
            line.sendall(f"{process_id} {socket.gethostname()}\n".encode())
            line.settimeout(max(deadline - time.monotonic(), 0.001))
            if line.recv(2) == b"go":
                stack.pop_all()  # the line stays open
                return line
        time.sleep(0.2)
    raise UserError(
        f"no answer from process 0 at {host}:{port} in time, or not all processes came; see its log"
    )


def _name(process: int) -> str:
    """The process, with its host's name where the cluster tells it."""
    hosts = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    return f"process {process} ({hosts[process]})" if process < len(hosts) else f"process {process}"
