"""What rank 0 does alone: where it fails, every rank ends, with the same message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .checkpoint import CheckpointError
from .config import ConfigError
from .distributed import Ranks

T = TypeVar("T")


class RunWriteError(OSError):
    """A file of a run that cannot be written."""


def write_together(what: Any, write: Callable[[], T], ranks: Ranks, kept: str = "") -> T:
    """Call `write` on every rank; whoever has something to write in it writes.

    Without this the others would wait in their next exchange for a rank that has ended. `write` may
    exchange nothing itself once it has begun to write.

    Args:
        what: is written, for the message.
        kept: what is whole all the same, for the message.

    Raises:
        RunWriteError: on every rank, where one of them cannot write.
    """
    # What safetensors raises where a disk is full is no OSError. Imported here because models run
    # without it; whoever trains has it.
    from safetensors import SafetensorError

    result, reason = None, ""
    try:
        result = write()
    except (OSError, SafetensorError) as error:
        reason = str(error)
    # Mostly nothing fails: then one small message is enough.
    if any(ranks.largest([int(bool(reason))])):
        reasons = [reason for reason in ranks.gather_objects(reason) if reason]
        raise RunWriteError(
            f"{what} cannot be written: {reasons[0]}. {kept}Put that right (is the disk full, or "
            "over its quota?) and go on with resume=true"
        )
    return result


def ask_main(question: Callable[[], T], ranks: Ranks) -> T:
    """What rank 0 finds, on every rank; the others do not look. Every rank calls it.

    Args:
        question: exchanges nothing itself. What it returns can be pickled.

    Raises:
        OSError, CheckpointError, ConfigError: on every rank, where rank 0 meets one.
    """
    answer, failure = None, None
    if ranks.is_main:
        try:
            answer = question()
        except (OSError, CheckpointError, ConfigError) as error:
            failure = error
    answer, failure = ranks.gather_objects((answer, failure))[0]
    if failure is not None:
        raise failure
    return answer
