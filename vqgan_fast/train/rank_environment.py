"""What torchrun's environment says of this process, and whether it can be meant."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .config import ConfigError

# LOCAL_RANK may be missing: with one process on each machine not every launcher sets it.
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
START = "start with torchrun (docs/clusters.md)"
# Slurm's own steps, the script of sbatch and the shell of salloc, have numbers from here on.
OWN_STEPS = 0xFFFFFFF0


@dataclass(frozen=True)
class RankEnvironment:
    """This process among all, and where they meet; one process if nothing is set."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = ""


def rank_environment() -> RankEnvironment:
    """What is set, an empty value taken for none.

    Raises:
        ConfigError: a part is missing or cannot be, named; or srun has started several processes
            which would know nothing of each other.
    """
    given = {name: os.environ.get(name, "") for name in (*NEEDED, "LOCAL_RANK")}
    present = [name for name, value in given.items() if value]
    missing = [name for name in NEEDED if not given[name]]
    if not present:
        _refuse_lone_tasks()
        return RankEnvironment()
    if missing:
        raise ConfigError(
            f"the environment sets {', '.join(present)} without {', '.join(missing)}, so it is not "
            f"clear which processes train together: {START}, or unset {', '.join(present)}"
        )
    world_size = _integer("WORLD_SIZE", 1, None)
    return RankEnvironment(
        _integer("RANK", 0, world_size - 1),
        world_size,
        _integer("LOCAL_RANK", 0, world_size - 1) if given["LOCAL_RANK"] else 0,
        f"{given['MASTER_ADDR']}:{_integer('MASTER_PORT', 1, 65535)}",
    )


def _integer(name: str, least: int, most: int | None) -> int:
    given = os.environ[name]
    try:
        value = int(given)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        expected = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise ConfigError(
            f"the environment's {name} must be an integer {expected}, got {given}: {START}, or "
            "unset it"
        )
    return value


def _refuse_lone_tasks() -> None:
    """Several tasks of one srun without torchrun: each would train alone, all in one folder.

    The shell of salloc and the script of sbatch have the job's SLURM_NTASKS too, but no step.
    """
    step = os.environ.get("SLURM_STEP_ID", "")
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", "")
    if not (step.isdecimal() and int(step) < OWN_STEPS and tasks.isdecimal() and int(tasks) > 1):
        return
    raise ConfigError(
        f"srun has started {tasks} processes that know nothing of each other: {START}, or run one "
        "process with srun --ntasks=1"
    )
