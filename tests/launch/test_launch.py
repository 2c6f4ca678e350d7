"""The launch scripts: what they call, what they do when that fails, and a run that loses half its devices."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "osteojax"))

import small
from processes import wait_for_step

from osteojax import storage

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
RESTART = str(LAUNCH / "restart.sh")


def run(*command, **environment):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        check=False,
    )


def fake_training(stand_ins, statuses, *, advances=True):
    """`osteojax` that ends with these statuses in turn, a checkpoint further each time."""
    body = f"n=$(wc -l < $calls)\nstatuses=({' '.join(map(str, statuses))})\n"
    if advances:
        body += 'for word in "$@"; do\n'
        body += '    [[ $word == --workdir=* ]] && mkdir -p "${word#--workdir=}/checkpoints/$n"\ndone\n'
    stand_ins.write("osteojax", body + "exit ${statuses[$((n - 1))]}")


# --- restarting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statuses, final",
    [
        ([0], 0),
        ([75, 75, 0], 0),
        ([137, 134, 143, 0], 0),
        ([2], 2),
        ([1], 1),
        ([75, 2], 2),
        ([75, 137, 1], 1),
    ],
)
def test_only_what_asks_for_it_is_started_again(stand_ins, tmp_path, statuses, final):
    fake_training(stand_ins, statuses)
    done = run(RESTART, "osteojax", "train", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == final and len(stand_ins.calls("osteojax")) == len(statuses)


def test_starts_that_bring_nothing_come_to_an_end_and_progress_begins_the_count_anew(stand_ins, tmp_path):
    fake_training(stand_ins, [75] * 50, advances=False)
    done = run(RESTART, "osteojax", "train", f"--workdir={tmp_path / 'run'}", RESTARTS=3)
    assert done.returncode == 75 and len(stand_ins.calls("osteojax")) == 3
    assert "3 starts in a row brought the run no further" in done.stderr
    (stand_ins.folder / "osteojax.calls").unlink()
    fake_training(stand_ins, [75] * 10 + [0])
    assert run(RESTART, "osteojax", "train", f"--workdir={tmp_path / 'run'}", RESTARTS=3).returncode == 0


def test_progress_of_a_run_in_a_bucket_is_asked_of_the_bucket(stand_ins):
    fake_training(stand_ins, [75] * 6 + [0], advances=False)
    stand_ins.write("python3", "wc -l < $calls")  # a checkpoint further each time that it is asked
    done = run(RESTART, "osteojax", "train", "--workdir=gs://bones/run", RESTARTS=3)
    assert done.returncode == 0 and all(
        call.endswith(" gs://bones/run") for call in stand_ins.calls("python3")
    )
    (stand_ins.folder / "osteojax.calls").unlink()
    stand_ins.write("python3", "echo 4")
    assert run(RESTART, "osteojax", "train", "--workdir=gs://bones/run", RESTARTS=3).returncode == 75
    assert len(stand_ins.calls("osteojax")) == 3
    # What it asks is there to be asked.
    text = Path(RESTART).read_text()
    assert "storage.newest_step(" in text and callable(storage.newest_step)


def test_a_signal_to_the_script_saves_the_run_and_starts_nothing_again(stand_ins, tmp_path):
    stand_ins.write(
        "osteojax",
        f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 75' TERM\ntouch {tmp_path}/up\nwhile true; do sleep 0.1; done",
    )
    process = subprocess.Popen([RESTART, "osteojax", "train", f"--workdir={tmp_path}"])
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "saved").exists() and len(stand_ins.calls("osteojax")) == 1


def test_a_command_that_is_not_there_is_final(stand_ins):
    assert run(RESTART, "no-such-command").returncode == 127
    assert run(RESTART).returncode == 64


@pytest.mark.slow
def test_a_run_on_eight_devices_loses_four_and_goes_on(prepared, tmp_path):
    config = small.quick_config(prepared)
    config.epochs, config.log_every, config.mesh.data = 10.0, 1, -1
    config.eval.every_steps = 30
    file = small.write_config(tmp_path / "config.py", config)
    starter = tmp_path / "start.sh"
    # The first start finds eight devices, every later one four.
    starter.write_text(
        "#!/bin/bash\n"
        f"echo start >> {tmp_path}/starts\n"
        f"devices=$([[ $(wc -l < {tmp_path}/starts) -eq 1 ]] && echo 8 || echo 4)\n"
        'export XLA_FLAGS="--xla_force_host_platform_device_count=$devices"\n'
        f"echo $$ > {tmp_path}/pid\n"
        f'exec {sys.executable} {small.__file__} "$@"\n'
    )
    starter.chmod(0o755)
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [RESTART, str(starter), "train", f"--config={file}", f"--workdir={workdir}"],
        env={**os.environ, "PAUSE": "0", "PYTHONPATH": str(LAUNCH.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(workdir, 4, process)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    starts = json.loads((workdir / "run.json").read_text())
    assert [start["devices"] for start in starts] == [8, 4] and starts[1]["from_step"] >= 4
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 31))


# --- one script each --------------------------------------------------------------------------------------------------


def test_local_gpus_asks_the_driver_and_trains_with_what_it_is_given(stand_ins, tmp_path):
    stand_ins.write("nvidia-smi", "echo 'GPU 0: H100'; echo 'GPU 1: H100'")
    fake_training(stand_ins, [75, 0])
    done = run(LAUNCH / "local_gpus.sh", "--config=c.py", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0 and "2 GPUs" in done.stderr
    assert stand_ins.calls("osteojax") == [f"train --config=c.py --workdir={tmp_path / 'run'}"] * 2
    stand_ins.write("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    done = run(LAUNCH / "local_gpus.sh", "--config=c.py")
    assert done.returncode == 2 and "finds no GPU: NVIDIA-SMI has failed" in done.stderr


def slurm(stand_ins, *, srun, state="RUNNING"):
    stand_ins.write("srun", srun)
    stand_ins.write("scontrol", f"[[ $1 == show ]] && echo 'JobId=7 JobState={state} Reason=None'\nexit 0")
    stand_ins.write("scancel", "kill -TERM $(cat ${calls%/*}/srun.pid)")


def sbatch(tmp_path, workdir=None, **environment):
    return run(
        "bash",
        LAUNCH / "slurm.sbatch",
        "--config=c.py",
        f"--workdir={workdir or tmp_path / 'run'}",
        SLURM_JOB_ID=7,
        **environment,
    )


def requeues(stand_ins):
    return [call for call in stand_ins.calls("scontrol") if call.startswith("requeue")]


@pytest.mark.parametrize(
    "status, state, requeued",
    [
        (0, "RUNNING", False),
        (2, "RUNNING", False),
        (75, "RUNNING", True),
        (137, "RUNNING", True),
        (75, "COMPLETING", False),  # after scancel JOB, which must not come back
        (75, "CANCELLED", False),
    ],
)
def test_slurm_gives_a_stopped_job_back_to_the_queue_and_no_other(
    stand_ins, tmp_path, monkeypatch, status, state, requeued
):
    monkeypatch.chdir(tmp_path)
    slurm(stand_ins, srun=f"exit {status}", state=state)
    assert sbatch(tmp_path).returncode == status
    assert stand_ins.calls("srun") == [
        f"--kill-on-bad-exit=1 osteojax train --config=c.py --workdir={tmp_path}/run"
    ]
    assert requeues(stand_ins) == (["requeue 7"] if requeued else [])


def test_slurm_starts_that_bring_nothing_come_to_an_end(stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    slurm(stand_ins, srun="exit 137")
    for _ in range(3):
        done = sbatch(tmp_path, RESTARTS=3)
    assert len(requeues(stand_ins)) == 2 and "3 starts in a row brought the run no further" in done.stderr
    assert not list(tmp_path.glob("*.fruitless"))
    # One that gets further begins the count anew.
    sbatch(tmp_path, RESTARTS=2)
    slurm(stand_ins, srun=f"mkdir {tmp_path}/run/checkpoints/10\nexit 75")
    sbatch(tmp_path, RESTARTS=2)
    slurm(stand_ins, srun="exit 137")
    sbatch(tmp_path, RESTARTS=2)
    assert len(requeues(stand_ins)) == 5


def test_slurm_asks_a_bucket_how_far_its_run_is(stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slurm(stand_ins, srun="exit 137")
    stand_ins.write("python3", "wc -l < $calls")  # a checkpoint further each time that it is asked
    for _ in range(4):
        sbatch(tmp_path, "gs://bones/run", RESTARTS=2)
    assert len(requeues(stand_ins)) == 4
    stand_ins.write("python3", "echo 4")
    for _ in range(2):
        sbatch(tmp_path, "gs://bones/run", RESTARTS=2)
    assert len(requeues(stand_ins)) == 5
    assert "storage.newest_step(" in (LAUNCH / "slurm.sbatch").read_text()


def test_slurm_passes_the_signal_on_to_the_tasks_and_not_to_srun(stand_ins, tmp_path, monkeypatch):
    """A real srun kills its tasks at once when it is signalled: only scancel reaches them."""
    monkeypatch.chdir(tmp_path)
    slurm(
        stand_ins,
        srun="echo $$ > ${calls%/*}/srun.pid\ntrap 'sleep 0.3; exit 75' TERM\n"
        f"touch {tmp_path}/up\nwhile true; do sleep 0.1; done",
    )
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sbatch"), "--workdir=RUN"], env={**os.environ, "SLURM_JOB_ID": "7"}
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75 and requeues(stand_ins) == ["requeue 7"]
    assert stand_ins.calls("scancel") == ["--signal=TERM 7"]


# A TPU: `state` is a file, and the commands change it as Google's do.
GCLOUD = """
state={folder}/state
say() {{ echo "ERROR: (gcloud.compute.tpus.tpu-vm) $1" >&2; exit 1; }}
case "$*" in
    *" describe "*) [[ -f $state ]] && cat $state || say "NOT_FOUND: it does not exist" ;;
    *" create "*)
        {create}
        [[ -f $state ]] && say "ALREADY_EXISTS: Resource 'bones' already exists"
        echo READY > $state ;;
    *" delete "*) rm -f $state ;;
    *" scp "*) [[ -f $state ]] || say "NOT_FOUND" ;;
    *"pip install"*) : ;;
    *"osteojax train"*)
        n=$(grep -c 'osteojax train' $calls)
        {train} ;;
esac
"""


def gcloud(stand_ins, *, create=":", train="exit 0"):
    stand_ins.write("gcloud", GCLOUD.format(folder=stand_ins.folder, create=create, train=train))


def tpu(*words, **environment):
    names = {"NAME": "bones", "ZONE": "us-west4-a", "ATTEMPTS": "5"} | environment
    return run(LAUNCH / "tpu_vm.sh", *words, **names)


def kinds(stand_ins):
    """What was asked of gcloud, in order, without the looks at the state."""
    found = []
    for call in stand_ins.calls("gcloud"):
        words = call.split()
        kind = "train" if "osteojax train" in call else "setup" if "pip install" in call else words[3]
        if kind != "describe":
            found.append(kind)
    return found


def test_a_tpu_is_made_set_up_and_trained_on_with_exactly_these_commands(stand_ins):
    gcloud(stand_ins)
    done = tpu("all", "--config=c.py", "--workdir=gs://b/run", "--config.data.dir=it's here", SPOT=1)
    assert done.returncode == 0, done.stderr
    assert kinds(stand_ins) == ["create", "scp", "setup", "train"]
    create = next(call for call in stand_ins.calls("gcloud") if " create " in call)
    assert create == (
        "compute tpus tpu-vm create bones --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite --spot "
        "--zone=us-west4-a"
    )
    train = next(call for call in stand_ins.calls("gcloud") if "osteojax train" in call)
    assert "ssh bones --worker=all" in train and "--config.data.dir=it\\'s\\ here" in train


def test_each_step_may_be_repeated(stand_ins):
    gcloud(stand_ins)
    for _ in range(2):
        assert tpu("create").returncode == 0
    assert kinds(stand_ins) == ["create"]
    assert tpu("delete").returncode == 0 and tpu("delete").returncode == 0
    assert kinds(stand_ins) == ["create", "delete"]


def test_a_slice_that_is_taken_away_is_made_again_and_the_run_goes_on(stand_ins):
    gcloud(stand_ins, train="if [[ $n -eq 1 ]]; then echo PREEMPTED > $state; exit 255; fi; exit 0")
    done = tpu("all", "--workdir=W")
    assert done.returncode == 0, done.stderr
    assert kinds(stand_ins) == [
        "create",
        "scp",
        "setup",
        "train",
        "delete",
        "create",
        "scp",
        "setup",
        "train",
    ]
    assert "bones is gone" in done.stderr


def test_a_run_that_saved_is_started_again_and_one_that_failed_is_not(stand_ins):
    gcloud(stand_ins, train="if [[ $n -lt 3 ]]; then exit 75; fi; exit 0")
    assert tpu("all", "--workdir=W").returncode == 0 and kinds(stand_ins).count("train") == 3
    (stand_ins.folder / "gcloud.calls").unlink()
    gcloud(stand_ins, train="exit 2")
    assert tpu("run", "--workdir=W").returncode == 2 and kinds(stand_ins).count("train") == 1
    (stand_ins.folder / "gcloud.calls").unlink()
    gcloud(stand_ins, train="exit 75")
    done = tpu("run", "--workdir=W")
    assert (
        done.returncode == 75 and kinds(stand_ins).count("train") == 5 and "given up after 5" in done.stderr
    )


def on_the_host(stand_ins, tmp_path, training):
    """A gcloud that does what is asked of all hosts on one of its own, where only training may be killed."""
    host = tmp_path / "host"
    (host / "osteojax" / ".venv" / "bin").mkdir(parents=True)
    (stand_ins.folder / "state").write_text("READY")
    stand_ins.write("pkill", 'echo "${@: -1}" > ${calls%/*}/pattern; kill -TERM $(cat ${calls%/*}/pid)')
    stand_ins.write(
        "gcloud",
        f"[[ $* == *' describe '*' '* ]] && cat ${{calls%/*}}/state && exit 0\n"
        f'for word in "$@"; do [[ $word == --command=* ]] && cd {host} && exec bash -c "${{word#--command=}}"; done',
    )
    train = host / "osteojax" / ".venv" / "bin" / "osteojax"
    train.write_text(f"#!/bin/bash\necho $$ > {stand_ins.folder}/pid\n{training}\n")
    train.chmod(0o755)
    return host / "osteojax"


def test_a_tpu_run_that_is_asked_to_stop_saves_and_is_not_started_again(stand_ins, tmp_path):
    there = on_the_host(
        stand_ins,
        tmp_path,
        "trap 'echo saved; exit 75' TERM\ntouch up\nfor i in {1..300}; do sleep 0.1; done",
    )
    names = {"NAME": "bones", "ZONE": "z", "ATTEMPTS": "2"}
    process = subprocess.Popen([str(LAUNCH / "tpu_vm.sh"), "run", "--workdir=W"], env={**os.environ, **names})
    while not (there / "up").exists():
        time.sleep(0.02)
    assert tpu("stop").returncode == 0
    try:
        assert process.wait(20) == 130 and "saved" in (there / "train.log").read_text()
    finally:
        process.kill()
    pattern = (stand_ins.folder / "pattern").read_text().strip()
    shell = next(call for call in stand_ins.calls("gcloud") if "osteojax train" in call)
    training = "/home/me/osteojax/.venv/bin/python3 .venv/bin/osteojax train --workdir=W"
    assert re.search(pattern, training) and not re.search(pattern, shell)
    assert not re.search(pattern, f"bash -c pkill -TERM -f '{pattern}'")
    # The mark is gone with the next run, which ends by its own status.
    (there / ".venv" / "bin" / "osteojax").write_text("#!/bin/bash\nexit 2\n")
    assert tpu("run", "--workdir=W").returncode == 2


def test_a_quota_that_is_exhausted_stops_before_anything_else(stand_ins):
    gcloud(
        stand_ins, create='say "RESOURCE_EXHAUSTED: Quota limit TPUV5sLitepodPerProject has been exceeded"'
    )
    done = tpu("all", "--workdir=W")
    assert done.returncode == 1 and "Quota limit" in done.stderr and kinds(stand_ins) == ["create"]


def test_a_queued_resource_is_waited_for_and_deleted_as_one(stand_ins):
    gcloud(stand_ins)
    assert tpu("create", QUEUED=1).returncode == 0
    assert any(
        call.startswith("compute tpus queued-resources create bones --node-id=bones")
        for call in stand_ins.calls("gcloud")
    )
    tpu("delete", QUEUED=1)
    assert any("queued-resources delete bones" in call for call in stand_ins.calls("gcloud"))


def test_without_a_name_or_a_step_the_script_says_what_it_needs(stand_ins):
    done = run(LAUNCH / "tpu_vm.sh", "create", NAME="", ZONE="z")
    assert done.returncode == 1 and "name of the slice" in done.stderr
    assert tpu("dance").returncode == 64


# --- manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["tpu.yaml", "gpu.yaml"])
def test_the_jobs_within_the_jobsets_are_valid_by_kubernetes_own_schema(file):
    """JobSet's own schema is published with the controller alone; what it holds are Jobs of batch/v1."""
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    manifest = yaml.safe_load((LAUNCH / "kubernetes" / file).read_text())
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and manifest["kind"] == "JobSet"
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job"},
        "spec": replicated["template"]["spec"],
    }
    validator.validate(job, "1.29", strict=True)
    spec = job["spec"]
    assert spec["parallelism"] == spec["completions"] and spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    assert "osteojax train" in " ".join(container["command"]) and container["resources"]["limits"]


@pytest.mark.parametrize("file", ["tpu.yaml", "gpu.yaml"])
def test_a_jobset_starts_again_after_what_the_loop_starts_again_after_and_nothing_else(file):
    spec = yaml.safe_load((LAUNCH / "kubernetes" / file).read_text())["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "NotIn"
    again = re.search(r"^ +([0-9 |]+)\) ;;", Path(RESTART).read_text(), re.MULTILINE)[1]
    assert rule["onExitCodes"]["values"] == [int(status) for status in again.split(" | ")]
    assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    # A Job that fails by that rule fails the set; one whose pod was stopped or lost has used up its backoffLimit.
    (final,) = spec["failurePolicy"]["rules"]
    assert final["action"] == "FailJobSet" and final["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["backoffLimit"] == 0 and spec["failurePolicy"]["maxRestarts"] > 0


def test_skypilot_runs_the_restart_loop():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert "launch/restart.sh osteojax train" in task["run"] and task["resources"]["use_spot"] is True


@pytest.mark.parametrize(
    "file", ["local_gpus.sh", "tpu_vm.sh", "slurm.sbatch", "kubernetes/tpu.yaml", "skypilot.yaml", "xpk.md"]
)
def test_each_begins_with_what_it_needs_costs_and_how_to_follow_stop_and_resume(file):
    head = (LAUNCH / file).read_text()[:1600]
    assert all(word in head for word in ("needs", "compile-check", "follow", "stop", "resume"))
