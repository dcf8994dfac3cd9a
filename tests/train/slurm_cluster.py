"""A Slurm of two machines on one: a daemon in each of two network namespaces, and a controller."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hosts import Host, two_hosts

PROGRAMS = ("ip", "nsenter", "unshare", "munged", "slurmctld", "slurmd", "sbatch")
NODES = ("one", "two")
CONFIG = """
ClusterName=test
SlurmctldHost=one({one})
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=15
KillWait=15
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=one NodeAddr={one} CPUs={cpus} Gres=gpu:1
NodeName=two NodeAddr={two} CPUs={cpus} Gres=gpu:1
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def lacking() -> list[str]:
    """What this needs and the machine has not: root's privileges, programs."""
    return ["root"] * (os.geteuid() != 0) + [name for name in PROGRAMS if not shutil.which(name)]


class Cluster:
    """Commands are given on node one."""

    def __init__(self, folder: Path, hosts: tuple[Host, Host]) -> None:
        self.folder, self.hosts = folder, dict(zip(NODES, hosts, strict=True))
        one, two = (host.address for host in hosts)
        (folder / "state").mkdir()
        # A card that is none: training finds no CUDA, and takes the CPU.
        os.mknod(folder / "card", 0o600 | 0o020000, os.makedev(1, 3))
        (folder / "gres.conf").write_text(f"Name=gpu File={folder / 'card'}\n")
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{one} one\n{two} two\n")
        text = CONFIG.format(one=one, two=two, folder=folder, cpus=os.cpu_count())
        (folder / "slurm.conf").write_text(text)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        files = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid",
                 "log-file": "munge.log", "seed-file": "munge.seed"}  # fmt: skip
        self.munged = ["munged", "--force", *(f"--{k}={folder / v}" for k, v in files.items())]

    def start(self) -> None:
        subprocess.run(self.munged, check=True)
        self.on("one", "slurmctld", "-c")
        for name in NODES:
            self.plug_in(name)

    def on(self, node: str, *command: str) -> str:
        """A command on a node, whose failure is an error; what it printed."""
        # A namespace of its own for names, and /etc/hosts of this cluster.
        setup = f'hostname {node}; mount --bind {self.folder / "hosts"} /etc/hosts; exec "$@"'
        path = [Path(__file__).parents[2], os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            ["nsenter", f"--net=/var/run/netns/{self.hosts[node].name}", "unshare", "--uts",
             "--mount", "sh", "-ec", setup, "sh", *command],
            env={**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"),
                 "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                 "PYTHONPATH": os.pathsep.join(map(str, path))},
            cwd=self.folder, check=True, text=True, stdout=subprocess.PIPE, timeout=300,
        )  # fmt: skip
        return done.stdout

    def plug_in(self, node: str) -> None:
        self.hosts[node].set_link("up")
        self.on(node, "slurmd")

    def cut_off(self, node: str) -> None:
        """As if the machine had lost its power."""
        self.hosts[node].set_link("down")
        self.kill(node)

    def kill(self, node: str) -> None:
        listed = ["ip", "netns", "pids", self.hosts[node].name]
        for _ in range(10):  # some begin meanwhile
            told = subprocess.run(listed, check=True, text=True, stdout=subprocess.PIPE).stdout
            for pid in told.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not told:
                return
            time.sleep(0.1)

    def job(self, number: str, key: str) -> str:
        """A field of `scontrol show job`, such as Restarts."""
        fields = self.on("one", "scontrol", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)[key]

    def close(self) -> None:
        if (self.folder / "munge.pid").is_file():
            os.kill(int((self.folder / "munge.pid").read_text()), signal.SIGTERM)
        for node in NODES:
            self.kill(node)


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Needs what `lacking` looks for."""
    with two_hosts() as hosts:
        cluster = Cluster(folder, hosts)
        try:
            cluster.start()
            idle = "idle\nidle\n"
            wait(
                lambda: cluster.on("one", "sinfo", "-h", "-N", "-p", "low", "-o", "%T") == idle, 30
            )
            yield cluster
        finally:
            cluster.close()


def wait(happened: Callable[[], bool], seconds: float) -> None:
    """Until it is so; a TimeoutError if it takes longer."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing after {seconds} s")
        time.sleep(1)
