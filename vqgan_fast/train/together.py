"""What rank 0 does alone: where it fails, every rank ends, with the same message."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from .checkpoint import CheckpointError
from .config import ConfigError
from .distributed import Ranks

T = TypeVar("T")
# What is said where there is no room (Windows has no EDQUOT).
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class RunWriteError(OSError):
    """A file of a run that cannot be written; `errno` is that of the rank which could not."""


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

    result, reason = None, None
    try:
        result = write()
    except OSError as error:
        reason = (str(error), error.errno, error.errno in FULL)
    except SafetensorError as error:
        reason = (str(error), None, True)
    # Mostly nothing fails: then one small message is enough.
    if any(ranks.largest([int(reason is not None)])):
        reasons = [reason for reason in ranks.gather_objects(reason) if reason is not None]
        text, code, may_be_full = reasons[0]
        question = " (is the disk full, or over its quota?)" if may_be_full else ""
        failure = RunWriteError(
            f"{what} cannot be written: {text}. {kept}Put that right{question} and go on with "
            "resume=true"
        )
        failure.errno = code
        raise failure
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
