"""Several hosts on one machine: network namespaces with a cable between them, and torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Host:
    """A network namespace, the address it has and the end of the cable that lies in it."""

    name: str
    address: str
    cable: str

    def set_link(self, state: str) -> None:
        """Pull the cable ("down") or put it back ("up")."""
        ip("-n", self.name, "link", "set", self.cable, state)

    def torchrun(self, *arguments: str, said: Path) -> subprocess.Popen:
        """torchrun on this host; what it says goes into the file `said`."""
        return torchrun(
            "--local-addr", self.address, *arguments, said=said,
            within=("ip", "netns", "exec", self.name), GLOO_SOCKET_IFNAME=self.cable,
            # See `vqgan_fast.train.distributed._life`.
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        )  # fmt: skip


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them; needs root and `ip`."""
    one = Host(f"vqgan_one_{os.getpid()}", "10.213.77.1", "to_two")
    two = Host(f"vqgan_two_{os.getpid()}", "10.213.77.2", "to_one")
    try:
        for host in (one, two):
            ip("netns", "add", host.name)
        ip("link", "add", "name", one.cable, "netns", one.name, "type", "veth", "peer",
           "name", two.cable, "netns", two.name)  # fmt: skip
        for host in (one, two):
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.cable)
            ip("-n", host.name, "link", "set", "lo", "up")
            host.set_link("up")
        yield one, two
    finally:
        for host in (one, two):
            subprocess.run(["ip", "netns", "delete", host.name], check=False)


def ip(*arguments: str) -> None:
    """The command, whose failure is an error."""
    subprocess.run(["ip", *arguments], check=True)


def torchrun(
    *arguments: str, said: Path, within: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen:
    """torchrun as a process of its own; what it says goes into the file `said`.

    Args:
        within: the command that starts it elsewhere.
        environment: further variables.
    """
    path = [HERE.parent.parent, os.environ.get("PYTHONPATH", "")]
    given = {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1", **environment}
    with open(said, "w") as file:
        return subprocess.Popen(
            [*within, sys.executable, "-m", "torch.distributed.run", *arguments],
            env={**os.environ, **given}, stderr=file, stdout=file,
        )  # fmt: skip
