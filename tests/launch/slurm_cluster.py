"""A SLURM cluster of one node on loopback: Debian's slurmctld, slurmd and munged, in a folder of their own.

It runs as the user who starts it, without systemd; processes are tracked by /proc, since cgroups are seldom ours.
"""

import contextlib
import getpass
import os
import re
import secrets
import subprocess
import time

from processes import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")

CONFIG = """
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
# A job that was requeued waits until its credentials have expired, by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=sched_interval=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """The running cluster; `environment` is what its clients need."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command):
        """Runs a client; its standard output."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def facts(self, job):
        """What `scontrol show job` tells: name -> value."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", "--oneliner", job)))

    def wait_for(self, job, *states, restarts=0, seconds=120):
        """The facts once the job has been started again so often and is in one of these states."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            facts = self.facts(job)
            if facts["JobState"] in states and int(facts["Restarts"]) == restarts:
                return facts
            time.sleep(0.5)
        raise AssertionError(f"job {job} after {seconds} s: {facts}; {self.log(job)}")

    def wait_for_end(self, job):
        """Returns once the job is in no queue."""
        self.until(lambda: not self.call("squeue", "-h", "-j", job), job)

    def until(self, condition, job, seconds=120):
        """Returns once the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"job {job} after {seconds} s: {self.log(job)}"
            time.sleep(0.2)

    def task(self, job, index):
        """The process id of one task of the job's step."""
        rows = [line.split() for line in self.call("scontrol", "listpids", f"{job}.0").splitlines()[1:]]
        (found,) = [int(pid) for pid, _, _, _, task in rows if task == str(index)]
        return found

    def log(self, job):
        """What the job said."""
        path = self.folder / f"slurm-{job}.log"
        return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def running(folder):
    """Context: a cluster whose daemons end with it."""
    cluster = SlurmCluster(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    config = CONFIG.format(folder=folder, user=getpass.getuser(), controller=free_port(), node=free_port())
    (folder / "slurm.conf").write_text(config)
    # Debian's SLURM 22.05 knows v1, v2 and autodetect; the plugin is loaded even where nothing uses it.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    with contextlib.ExitStack() as stack:

        def daemon(*command):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)

        daemon(
            "munged", "--foreground", "--force",
            f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.out", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        daemon("slurmctld", "-D", "-i")
        daemon("slurmd", "-D", "-N", "localhost")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                if cluster.call("sinfo", "-h", "-o", "%T") == "idle":
                    break
            time.sleep(0.5)
        else:
            raise AssertionError(f"no idle node: {(folder / 'slurmd.log').read_text()[-2000:]}")
        yield cluster
