"""A real Slurm on loopback: munge, the controller, a CPU node and a node whose GPU is a file, for the tests of this folder."""

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
SLURM_CONF = """
ClusterName=otrain
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
EnforcePartLimits=ALL
SchedulerParameters=bf_interval=5,sched_interval=2,sched_min_interval=0
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
MinJobAge=3600
KillWait=2
GresTypes=gpu
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=32000
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=32000 Gres=gpu:1
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=1440 State=UP
PartitionName=gpu Nodes=gpu1 MaxTime=1440 State=UP
"""


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Cluster:
    """Slurm's daemons in one folder, and the commands of a user of theirs."""

    folder: Path
    root: Path
    daemons: list = field(default_factory=list)

    @property
    def env(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SNAKEMAKE_"))}
        path = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        return kept | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")])),
            "PWD": str(self.root),
            "OMP_NUM_THREADS": "1",
        }

    def ask(self, *command):
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=60).stdout

    def jobs(self):
        """Every job there was: number, name (the run), comment (the rule), partition, state, start and end."""
        names = ("number", "run", "rule", "partition", "state", "start", "end")
        listing = self.ask("squeue", "--states=all", "--noheader", "--format", "%i|%j|%k|%P|%T|%S|%e")
        return [dict(zip(names, line.strip().split("|"), strict=True)) for line in listing.splitlines()]

    def job(self, number):
        """All that Slurm knows of one job."""
        words = self.ask("scontrol", "show", "job", "--oneliner", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def head(self, *arguments, log, resume=False):
        """Start Snakemake, or `make resume`, from the root of the clone; what it prints goes to `log`."""
        command = [
            sys.executable,
            str(Path(__file__).with_name("head.py")),
            *(["resume"] if resume else []),
            *arguments,
        ]
        with open(log, "w") as file:
            return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=file, stderr=subprocess.STDOUT)

    def start(self):
        ports, host = free_ports(3), platform.node().split(".")[0]
        for name in ("state", "spool-cpu1", "spool-gpu1", "bin"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(folder=self.folder, host=host, ports=ports))
        (self.folder / "gres.conf").write_text("NodeName=gpu1 Name=gpu File=/dev/null\n")
        # Snakemake hides Slurm's variables from the srun inside of a job.
        shim = self.folder / "bin" / "srun"
        shim.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        shim.chmod(0o755)
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        # --force: the socket lies in a folder of root's own, and munge wants one that all can enter.
        self.run(
            "munged", "--foreground", "--force", *(f"--{name}={self.folder}/munge.{end}" for name, end in files.items())
        )
        self.until(lambda: (self.folder / "munge.sock").exists(), "munged", 20)
        self.run("slurmctld", "-D")
        for node in ("cpu1", "gpu1"):
            self.run("slurmd", "-D", "-N", node)
        self.until(
            lambda: self.ask("sinfo", "--Node", "--noheader", "--format", "%T").split() == ["idle"] * 2, "the nodes", 60
        )

    def run(self, *command):
        """Start a daemon that ends with the tests, however these end."""
        command = ("setpriv", "--pdeathsig", "TERM", *command)
        with open(self.folder / f"{command[3]}.out", "a") as file:
            self.daemons.append(subprocess.Popen(command, env=self.env, stdout=file, stderr=subprocess.STDOUT))

    def until(self, condition, what, limit):
        """Wait for a condition, and say what Slurm wrote when it does not come."""
        end = time.monotonic() + limit
        while time.monotonic() < end and all(daemon.poll() is None for daemon in self.daemons):
            try:
                if condition():
                    return
            except subprocess.CalledProcessError:
                pass  # the controller is not up yet
            time.sleep(0.2)
        logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in self.folder.glob("*.[lo][ou][gt]"))
        raise TimeoutError(f"{what} not ready after {limit} s\n{logs}")

    def stop(self):
        if len(self.daemons) > 1:
            subprocess.run(["scancel", "--user", "root"], env=self.env, capture_output=True, timeout=60)
            end = time.monotonic() + 15
            while time.monotonic() < end and self.ask("squeue", "--noheader"):
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        left = self.processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=20)
        return [" ".join(process.info["cmdline"]) for process in left]

    def processes(self):
        """Everything on this machine that belongs to the cluster: its daemons and the processes of its jobs."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                mine = process.environ().get("SLURM_CONF") == self.env["SLURM_CONF"]
                if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture(scope="session")
def cluster(root, tmp_path_factory):
    """The cluster, as long as the tests of this folder run."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("a Slurm of its own needs root on Linux")
    if missing := [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (make slurm-programs, Debian)")
    made = Cluster(tmp_path_factory.mktemp("slurm"), root)
    try:
        made.start()
        yield made
    finally:
        left = made.stop()
    assert left == [], "outlived the tests (and were ended)"
