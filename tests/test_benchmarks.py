"""The benchmark that waits for an accelerator works: here in its tiny form, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_accelerator_benchmark_in_its_tiny_form(tmp_path):
    command = [sys.executable, "benchmarks/accelerator.py", "--tiny", f"--out={tmp_path}"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "accelerator.json").read_text())
    assert found["tiny"] and "skipped" in found["tests"] and "failed" not in found["tests"]
    assert found["device"]["ours"] == "cpu (cpu)"
    assert [(r["preset"], r["dtype"]) for r in found["steps"]] == [
        ("stage4", "bfloat16"),
        ("stage4", "float32"),
    ]
    for row in found["steps"]:
        assert row["images_per_second"]["ours"] > 0 and row["memory"]["ours"] > 0 and "errors" not in row
    assert found["loader"]["images_per_second"]["1"] > 0
    assert [row["profile"] for row in found["bm3d"]] == ["fast", "np"] or len(found["bm3d"]) == 2
    assert all(row["difference"] < 0.05 and min(row["seconds"].values()) > 0 for row in found["bm3d"])


@pytest.mark.slow
def test_what_does_not_fit_into_the_time_is_said_to_be_skipped(tmp_path):
    command = [sys.executable, "benchmarks/accelerator.py", "--tiny", f"--out={tmp_path}", "--seconds=0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "accelerator.json").read_text())
    assert {row.get("skipped") for row in (*found["steps"], *found["bm3d"])} == {"no time left"}
    assert "2 of 2 combinations skipped" in done.stdout
