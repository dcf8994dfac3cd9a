"""Whether the time allowed is enough for a checkpoint, seen before the first step."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import read_state
from .checkpoint_writer import CheckpointWriter
from .config import ConfigError
from .run_log import RunLog
from .stopping import too_short
from .training_state import TrainingState

MIB = 2**20


def first_checkpoint(
    state: TrainingState,
    writer: CheckpointWriter,
    resumed: Path | None,
    max_minutes: float | None,
    log: RunLog,
) -> float:
    """How many seconds a checkpoint takes, as far as it is known now; every rank calls it.

    A run that has a time limit and no checkpoint yet writes one of step 0, which is the only way to
    know: with a limit too short it would otherwise be ended in the middle of its first one, hours
    later, and each time anew.

    Args:
        resumed: the checkpoint to go on from, which knows how long it took.

    Raises:
        ConfigError: the limit is shorter.
        CheckpointError: it cannot be written.
    """
    if resumed is not None:
        return read_state(resumed).get("seconds", 0.0)
    if max_minutes is None:
        return 0.0
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.shared.values())
    log.say(
        f"optim.max_minutes = {max_minutes:g}: writing a checkpoint of {size / MIB:.3g} MiB now, "
        "to know how long one takes"
    )
    state.save(writer, 0, 0)
    writer.finish()
    (milliseconds,) = state.ranks.largest([round(1000 * writer.seconds)])
    seconds = milliseconds / 1000
    if seconds > 60 * max_minutes:
        raise ConfigError(
            f"{too_short(max_minutes, seconds)} and go on with resume=true from what is written"
        )
    return seconds
