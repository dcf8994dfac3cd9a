"""Sharing out the minutes of a demo, so that it ends in time on a slow machine too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..models import GPT, KVCache

STAGE_1_SHARE = 2 / 3  # of the time for training
OVERHEAD_SHARE = 0.08  # of all the time: starting, measuring, plotting
ENCODING_SHARE = 0.15  # of the time that stage 1 left, for the codes that stage 2 learns from
CAUTION = 2.5  # a machine that others use too may be slower later than when it was probed
SAMPLING_SHARE = 0.2  # of all the time: a probe in a bad moment must not leave none for training
SHORTEST = 0.5  # seconds of training; at least one step is always made


class Budget:
    """The time that is left, and what each phase took.

    Args:
        minutes: for everything together.
        started: `time.monotonic()` when the command began.

    Raises:
        ValueError: minutes is not above 0.
    """

    def __init__(self, minutes: float, started: float) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes must be above 0, got {minutes:g}")
        self.started = started
        self.end = started + 60 * minutes
        self.total = 60 * minutes
        self.sampling = 0.0
        self.seconds: dict[str, float] = {}

    def keep_for_sampling(self, seconds: float) -> None:
        """Keeps time back for the pictures at the end, see :func:`sampling_seconds`.

        A later call replaces an earlier one: the machine may have become slower meanwhile.
        """
        self.sampling = min(CAUTION * seconds, SAMPLING_SHARE * self.total)

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.started

    def training_minutes(self, share: float) -> float:
        """A share of the time that is left for training, in minutes."""
        reserve = OVERHEAD_SHARE * self.total + self.sampling
        left = self.end - time.monotonic() - reserve
        return max(SHORTEST, share * left) / 60

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds inside under a name."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 1)


@torch.inference_mode()
def sampling_seconds(gpt: GPT, window: int, samples: int, grid: tuple[int, int]) -> float:
    """How long this machine will take to draw the demo's pictures, by a probe of about a second.

    Where a cell's window stands at the border of its grid the keys and values are kept and one
    token is forwarded; elsewhere the prefix is forwarded anew, half a window on average.

    Args:
        gpt: of the size that will be trained; its weights do not matter.
        window: side of the window, in codes.
        samples: pictures of window x window codes, drawn together.
        grid: (height, width) in codes of the one large picture.
    """
    height, width = grid
    length = window * window
    half = torch.zeros(1, length // 2, dtype=torch.int64)
    prefix = median_seconds(lambda: gpt(half, logits_from=-1))

    parameter = next(gpt.parameters())
    cache = KVCache(gpt, samples, length, parameter.device, parameter.dtype)
    gpt(half.expand(samples, -1), cache=cache, logits_from=-1)

    def one_more_code() -> None:
        cache.truncate(length // 2)
        gpt(half[:, :1].expand(samples, -1), cache=cache, logits_from=-1)

    code = median_seconds(one_more_code)
    return height * width * prefix + length * code


def median_seconds(action: Callable[[], object], repeats: int = 9) -> float:
    """What one call takes, whatever else the machine does now and then."""
    action()  # the first call allocates
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
