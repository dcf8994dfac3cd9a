"""When to stop before the last step: a signal, or the time allowed is over."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from .distributed import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def too_short(max_minutes: float, seconds: float) -> str:
    """The message where a checkpoint takes longer than the whole time allowed."""
    return (
        f"optim.max_minutes = {max_minutes:g} is shorter than one checkpoint, which takes "
        f"{seconds:.2g} s: whoever ends the run at that time would end it in the middle of one, "
        "and it would never get further; allow more time"
    )


class TrainingInterrupted(SystemExit):
    """A signal stopped the run, its checkpoint is written; the exit status is 128 + the signal."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


class StopRequest:
    """While entered, SIGINT and SIGTERM are noted instead of ending the process in mid-step.

    Another SIGINT, a second or more after the first signal, ends it at once. (Sooner it may be the
    same Ctrl-C: torchrun passes on what the terminal has sent to every process already.)

    Args:
        max_minutes: the time allowed, from entering on, the last checkpoint within it once one was
            timed; None for no limit.
    """

    def __init__(self, max_minutes: float | None, ranks: Ranks) -> None:
        self.max_minutes = max_minutes
        self.ranks = ranks
        self.signal_number = 0
        self.time_is_over = False
        self.reserve_seconds = 0.0  # what the last checkpoint will take, see `first_checkpoint`
        self._noted = 0.0

    def __enter__(self) -> StopRequest:
        self._start = time.monotonic()
        in_main_thread = threading.current_thread() is threading.main_thread()
        wanted = SIGNALS if in_main_thread else ()  # Python allows handlers there only
        self._previous = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def minutes(self) -> float:
        """Minutes since training started."""
        return (time.monotonic() - self._start) / 60

    def agreed(self, seconds_ahead: float = 0.0) -> bool:
        """Whether to stop now, the same answer on every rank; to be called once a step by all.

        Args:
            seconds_ahead: what else than the last checkpoint is to come before the end, as far as
                it is known.
        """
        needed = self.minutes + (self.reserve_seconds + seconds_ahead) / 60
        late = self.max_minutes is not None and needed >= self.max_minutes
        signal_number, over = self.ranks.largest([self.signal_number, int(late)])
        self.signal_number, self.time_is_over = signal_number, bool(over)
        return signal_number > 0 or self.time_is_over

    def reason(self) -> str:
        """Why training ended, for the user."""
        if self.signal_number:
            return f"stopped by {signal.Signals(self.signal_number).name}"
        return "stopped, optim.max_minutes are over" if self.time_is_over else "finished"

    def warning(self) -> str:
        """What is wrong with the time allowed, empty if nothing is."""
        if self.max_minutes is None or self.reserve_seconds <= 60 * self.max_minutes:
            return ""
        return too_short(self.max_minutes, self.reserve_seconds)

    def raise_if_interrupted(self) -> None:
        """End the process with the signal's exit status if it was a signal that stopped it."""
        if self.signal_number:
            raise TrainingInterrupted(self.signal_number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal_number:
            self.signal_number, self._noted = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._noted > 1:
            raise KeyboardInterrupt
