"""A real Spark cluster on this machine's loopback: a master, workers, and what it takes to submit to them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNNER = "--beam.runner=beam_pyspark_runner.pyspark_runner.PySparkRunner"


@contextlib.contextmanager
def spark_cluster(folder: Path, python_path: str, workers: int = 2) -> Iterator[dict[str, str]]:
    """The environment in which `RUNNER` finds a cluster of so many workers with a core each.

    Args:
        folder: for its logs and its work.
        python_path: PYTHONPATH of the executors.
        workers: how many.
    """
    pyspark = pytest.importorskip("pyspark", reason="pip install pyspark beam-pyspark-runner")
    pytest.importorskip("beam_pyspark_runner", reason="pip install pyspark beam-pyspark-runner")
    if not shutil.which("java"):
        pytest.skip("no java: apt-get install openjdk-17-jre-headless")
    folder.mkdir()
    home = Path(pyspark.__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": python_path,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": f"--master spark://127.0.0.1:{port} --conf spark.ui.enabled=false "
        f"--conf spark.executorEnv.PYTHONPATH={python_path} --conf spark.default.parallelism={2 * workers} "
        "--conf spark.executor.memory=1g pyspark-shell",
    }
    processes = []

    def start(kind: str, *arguments: str) -> None:
        with (folder / f"{len(processes)}.log").open("w") as log:
            command = [str(home / "bin/spark-class"), f"org.apache.spark.deploy.{kind}", *arguments]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    try:
        start("master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
        for k in range(workers):
            place = ("-c", "1", "-m", "2g", "-d", str(folder / f"worker{k}"), "--webui-port", "0")
            start("worker.Worker", "--host", "127.0.0.1", *place, f"spark://127.0.0.1:{port}")
        deadline = time.monotonic() + 120
        while (folder / "0.log").read_text().count("Registering worker") < workers:
            assert time.monotonic() < deadline, (folder / "0.log").read_text()[-2000:]
            time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)
