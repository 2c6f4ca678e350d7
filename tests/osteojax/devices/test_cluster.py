import socket
import threading

import pytest

from osteojax.devices import cluster
from osteojax.errors import UserError

MARKERS = (
    "SLURM_JOB_ID",
    "OMPI_MCA_orte_hnp_uri",
    "KUBERNETES_SERVICE_HOST",
    "JOBSET_NAME",
    "TPU_WORKER_HOSTNAMES",
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in MARKERS:
        monkeypatch.delenv(name, raising=False)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    "environment, kind",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4"}, "SLURM"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOBSET_NAME": "run"}, "Kubernetes"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, "Cloud TPU"),
    ],
)
def test_a_cluster_is_recognised_only_where_there_are_several_tasks(monkeypatch, environment, kind):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cluster.recognised() == kind


def test_a_single_process_starts_nothing(monkeypatch):
    monkeypatch.setattr(cluster.jax.distributed, "initialize", lambda *a, **k: pytest.fail("started"))
    with cluster.joined("auto"):
        pass
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t0,t1")
    with cluster.joined("off"):
        pass


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "on"}, "no cluster is recognised"),
        ({"coordinator": "h:1"}, "given together"),
        ({"mode": "maybe"}, "--distributed=maybe"),
        ({"coordinator": "h", "processes": 2, "process_id": 0}, "not host:port"),
    ],
)
def test_half_a_description_is_a_clear_error(arguments, message):
    with pytest.raises(UserError, match=message), cluster.joined(**arguments):
        pass


def call(port, processes, present, timeout):
    """The error of each process that takes part in a roll call, None where it went well."""
    outcome = {}

    def member(i):
        try:
            lines = cluster.roll_call(f"127.0.0.1:{port}", processes, i, timeout)
            outcome[i] = None
            for line in lines.values():
                line.close()
        except UserError as error:
            outcome[i] = str(error)

    threads = [threading.Thread(target=member, args=(i,)) for i in present]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def test_all_present_go_on():
    assert call(free_port(), 3, (2, 0, 1), 30) == {0: None, 1: None, 2: None}


def test_the_missing_are_named_with_their_hosts(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t0,t1,t2")
    outcome = call(free_port(), 3, (0, 1), 2)
    assert "no word from process 2 (t2)" in outcome[0] and "1 on " in outcome[0]
    assert "process 0 at 127.0.0.1" in outcome[1]


def test_noise_on_the_port_is_no_process():
    port = free_port()
    stop = threading.Event()

    def scan():
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
                    line.sendall(b"GET / HTTP/1.0\r\n\r\n")
            except OSError:
                pass
            stop.wait(0.05)

    scanner = threading.Thread(target=scan)
    scanner.start()
    try:
        assert call(port, 2, (0, 1), 30) == {0: None, 1: None}
    finally:
        stop.set()
        scanner.join()


def test_a_coordinator_that_is_not_there_is_named():
    port = free_port()
    assert f"127.0.0.1:{port}" in call(port, 2, (1,), 1)[1]
