"""What several processes must find alike is one clear line of all of them, and soon."""

import json
import shutil
import signal
import socket
import subprocess
import time

import pytest
import small
from processes import command, free_port, launch, wait_for_step

from osteojax.devices import agreement, watch
from osteojax.devices.watch import EXIT_LOST


def outcome(*calls):
    """Exit status and last line of each of the processes started with these keywords of Popen."""
    started = [subprocess.Popen(**call, stderr=subprocess.PIPE, text=True) for call in calls]
    found = []
    for process in started:
        _, errors = process.communicate(timeout=120)
        lines = [line for line in errors.splitlines() if line.startswith("osteojax train: ")]
        assert "Traceback" not in errors, errors
        found.append((process.returncode, lines[-1] if lines else errors[-500:]))
    return found


def member(port, i, file, workdir, *flags, devices=1):
    where = (f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process_id={i}")
    return command(file, workdir, *where, *flags, devices=devices)


@pytest.fixture
def file(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.mesh.data = -1
    return small.write_config(tmp_path / "config.py", config)


def test_different_configs_are_named_by_their_keys(file, tmp_path):
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "run"),
        member(port, 1, file, tmp_path / "run", "--config.optimizer.learning_rate=0.5"),
    )
    for status, line in found:
        assert status == 2
        assert "process 1: was not started like process 0 (optimizer.learning_rate: 0.001 -> 0.5)" in line
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_dataset_that_one_host_lacks_stops_both(file, tmp_path):
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "run"),
        member(port, 1, file, tmp_path / "run", f"--config.data.dir={tmp_path / 'nothing'}"),
    )
    assert all(status == 2 and "process 1: no prepared dataset in" in line for status, line in found), found


@pytest.mark.slow
def test_the_data_may_lie_elsewhere_on_each_host_but_not_be_others(prepared, file, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "run"),
        member(port, 1, file, tmp_path / "run", f"--config.data.dir={tmp_path / 'copy'}"),
    )
    assert [status for status, _ in found] == [0, 0], found
    other = small.write_dataset(tmp_path / "other", {"train": 22, "val": 7, "test": 11}, seed=1)
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "again"),
        member(port, 1, file, tmp_path / "again", f"--config.data.dir={other}"),
    )
    assert all(status == 2 and "dataset: 'generated-0' -> 'generated-1'" in line for status, line in found), (
        found
    )


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_and_uneven_devices(file, tmp_path, monkeypatch):
    monkeypatch.setenv("OSTEOJAX_TEST_SECONDS_TO_APPEAR", "1")
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "run0"),
        member(port, 1, file, tmp_path / "run1"),
    )
    assert all(
        status == 2 and "is not the folder that process 0 writes to" in line for status, line in found
    ), found
    port = free_port()
    found = outcome(
        member(port, 0, file, tmp_path / "run", devices=1),
        member(port, 1, file, tmp_path / "run", devices=2),
    )
    assert all(status == 2 and "process 0: 1, process 1: 2" in line for status, line in found), found


def test_one_process_agrees_with_itself():
    assert agreement.from_first("a") == "a" and agreement.gather_texts("b") == ["b"]
    assert agreement.any_process(True) and not agreement.any_process(False)


@pytest.mark.slow
@pytest.mark.parametrize("processes, victim", [(2, 1), (3, 0), (4, 2)])
def test_a_process_that_is_killed_stops_the_others_within_seconds_and_is_named(
    prepared, tmp_path, processes, victim
):
    config = small.quick_config(prepared)
    config.mesh.data = -1
    config.epochs, config.log_every = 5000.0, 1
    file = small.write_config(tmp_path / "config.py", config)
    started = launch(file, tmp_path / "run", processes, 1)
    wait_for_step(tmp_path / "run", 2, started[0])
    started[victim].kill()
    killed = time.monotonic()
    for number, process in enumerate(started):
        _, errors = process.communicate(timeout=60)
        if number == victim:
            continue
        if victim == 0 and process.returncode == -signal.SIGABRT:
            continue  # without its coordinator JAX may abort before we do
        assert process.returncode == EXIT_LOST, errors
        last = [line for line in errors.splitlines() if line.startswith("osteojax")][-1]
        assert f"process {victim} " in last and "is gone" in last, errors
        assert "Traceback" not in errors
    assert time.monotonic() - killed < 20


@pytest.mark.slow
def test_an_error_of_one_process_alone_stops_the_others(prepared, tmp_path):
    """It fails where the others wait for it in a collective."""
    config = small.quick_config(prepared)
    config.mesh.data = -1
    config.epochs = 5000.0
    file = small.write_config(tmp_path / "config.py", config)
    port = free_port()
    calls = [member(port, i, file, tmp_path / "run") for i in range(2)]
    calls[1]["env"]["OSTEOJAX_TEST_FAIL_AT"] = "5"
    started = [subprocess.Popen(**call, stderr=subprocess.PIPE, text=True) for call in calls]
    errors = [process.communicate(timeout=90)[1] for process in started]
    assert started[1].returncode not in (0, EXIT_LOST) and "RuntimeError: told to" in errors[1]
    assert started[0].returncode == EXIT_LOST and "process 1 on" in errors[0].splitlines()[-1], errors[0]


def test_a_silent_process_is_noticed(monkeypatch):
    """Its host is without power: nothing closes the line."""
    monkeypatch.setattr(watch, "SECONDS_OF_SILENCE", 1.0)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN", 0.2)
    stopped = []
    monkeypatch.setattr(watch.Watch, "_stop", lambda self, reason: (stopped.append(reason), self._over.set()))
    ours, theirs = socket.socketpair()
    watching = watch.Watch({"process 1 on h1": ours}, relay=False)
    for _ in range(10):
        theirs.send(b".")
        time.sleep(0.2)
    assert not stopped
    time.sleep(1.6)
    assert stopped and stopped[0].startswith("process 1 on h1 has not been heard of")
    watching.leave()
    theirs.close()


@pytest.mark.slow
def test_two_processes_tell_who_is_slow_and_only_the_first_talks(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.mesh.data, config.epochs, config.log_every = -1, 6.0, 3
    config.eval.every_steps = 18
    file = small.write_config(tmp_path / "config.py", config)
    port = free_port()
    calls = [member(port, i, file, tmp_path / "run", "--profile") for i in range(2)]
    calls[1]["env"]["OSTEOJAX_TEST_SECONDS_A_BATCH"] = "0.3"
    started = [subprocess.Popen(**call, stderr=subprocess.PIPE, text=True) for call in calls]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    lines = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    laps = [line for line in lines if "slowest_process" in line][1:]
    assert laps and all(lap["slowest_process"] == 1 for lap in laps)
    assert all(lap["data_wait_seconds/process1"] > 0.2 > lap["data_wait_seconds/process0"] for lap in laps)
    assert "process 0: finished at step 18" in said[0]
    assert "step" not in said[1] and "parameter groups" not in said[1]
    assert {path.name for path in (tmp_path / "run" / "profile").iterdir()} == {"process0", "process1"}
