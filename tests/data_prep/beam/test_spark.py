"""On a real Spark cluster (loopback): equal to the bit, and through the death of executors and of the driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("apache_beam", reason="pip install -c constraints.txt -e '.[beam]'")

from tests.data_prep.beam.source import contents, differing, make_source
from tests.data_prep.beam.spark import RUNNER, spark_cluster
from tests.data_prep.beam.trouble import HANGS, KILLS, make_trouble

pytestmark = pytest.mark.slow
FLAGS = (
    *("--config.denoise.backend=none", "--config.image_size=64", "--config.quarantine.max_fraction=0.2"),
    *("--config.limits.seconds=20", "--config.workers=2"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The source with files that hang and kill, and what the local runner makes of it."""
    folder = tmp_path_factory.mktemp("local")
    source = make_source(folder / "source", 40)
    (source / "poison.png").write_bytes(HANGS)
    (source / "empty.dcm").write_bytes(KILLS)
    environment = {**os.environ, "PYTHONPATH": make_trouble(folder / "site")}
    done = start(source, folder / "out", environment)
    assert done.wait(600) == 0
    reasons = contents(folder / "out")["quarantine.csv"]
    assert b"took longer" in reasons and b"worker process died" in reasons
    return source, folder / "out"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spark")
    with spark_cluster(folder / "cluster", make_trouble(folder / "site")) as environment:
        yield environment


def start(source: Path, out: Path, environment: dict, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "osteojax", "prep", f"--source={source}", f"--out={out}", *FLAGS, *flags]
    return subprocess.Popen(command, env=environment)


def on_spark(source: Path, out: Path, environment: dict) -> subprocess.Popen:
    return start(source, out, environment, "--runner=beam", RUNNER)


def images_in(out: Path) -> int:
    return len(list((out.parent / f"{out.name}.partial" / "cache").glob("*.described.npz")))


def wait_for_images(out: Path, count: int, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while images_in(out) < count:
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.1)


def executors() -> list[psutil.Process]:
    """The JVMs that run the tasks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "CoarseGrainedExecutorBackend" in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_equal_to_the_bit(prepared, cluster, tmp_path):
    source, local = prepared
    assert on_spark(source, tmp_path / "out", cluster).wait(600) == 0
    assert not differing(local, tmp_path / "out")


def test_an_executor_that_is_killed_changes_nothing(prepared, cluster, tmp_path):
    source, local = prepared
    run = on_spark(source, tmp_path / "out", {**cluster, "OSTEOJAX_TEST_SLOW": "0.5"})
    wait_for_images(tmp_path / "out", 5, run)
    executors()[0].kill()
    assert run.wait(600) == 0
    assert not differing(local, tmp_path / "out")


def test_a_killed_driver_leaves_nothing_whole_and_is_gone_on_from(prepared, cluster, tmp_path):
    source, local = prepared
    run = on_spark(source, tmp_path / "out", cluster)
    wait_for_images(tmp_path / "out", 5, run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "out").exists()
    before = images_in(tmp_path / "out")
    assert before >= 5
    assert on_spark(source, tmp_path / "out", cluster).wait(600) == 0
    assert not differing(local, tmp_path / "out")
