"""Whether this process continues what the same launch by torchrun began.

torchrun starts all ranks anew when one fails or when a machine joins or leaves. The command line is
then the first one, without `resume=true`, and the run's folder is no longer empty. A number of
restarts above 0 does not tell enough: a launch that refused another run's folder is restarted too.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

LAUNCH = ".launch"  # in the run's folder: the launch that last wrote to it


def launch_id() -> str | None:
    """What tells launches apart: torchrun's --rdzv-id, which `--standalone` makes up.

    Without one, host and process of torchrun, which restarts its ranks itself; None without
    torchrun.
    """
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{platform.node()} {_process(os.getppid())}" if given == "none" else given


def _process(number: int) -> str:
    """A process among all that ever had its number: in containers of one name torchrun may be
    process 1 each time. Its number alone where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The 22nd field; the 2nd is a name in brackets, which may hold anything.
        since = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return str(number)
    return f"{number} {since} {boot}"


def note_launch(run_dir: Path) -> None:
    """Write down which launch goes on in `run_dir`; nothing without torchrun."""
    if (launch := launch_id()) is not None:
        unfinished = run_dir / f"{LAUNCH}.unfinished"
        unfinished.write_text(launch, encoding="utf-8")
        unfinished.replace(run_dir / LAUNCH)


def is_restart(run_dir: Path) -> bool:
    """Whether the launch that started these ranks has written to `run_dir` already."""
    file = run_dir / LAUNCH
    return launch_id() is not None and file.is_file() and file.read_text() == launch_id()
