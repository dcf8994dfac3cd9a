"""Sharing out the minutes of a demo, so that it ends in time on a slow machine too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch

from ..models import GPT
from ..sampling import sample_codes

STAGE_1_SHARE = 2 / 3  # of the time for training
OVERHEAD_SHARE = 0.08  # of all the time: starting, measuring, plotting
ENCODING_SHARE = 0.15  # of the time that stage 1 left, for the codes that stage 2 learns from
CAUTION = 2.5  # a machine that others use too may be slower later than when it was probed
SAMPLING_SHARE = 0.2  # of all the time: a probe in a bad moment must not leave none for training
# Seconds of training: room for the checkpoint that a run with a limit begins with, and some steps.
SHORTEST = 15.0


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


def sampling_seconds(gpt: GPT, window: int, samples: int, width: int) -> float:
    """How long this machine will take to draw the demo's pictures, by a probe of about a second.

    The sampler itself draws a part of either kind. Of the samples it is the last row of codes: one
    token of each sample for a step, as in all rows. Of the wide picture it is one column in its
    middle, whose window's tokens are forwarded once, as they are for each place that a window can
    take; a whole picture forwards several windows' tokens at a time and is a little faster.

    Args:
        gpt: of the size that will be trained; its weights do not matter.
        window: side of the window, in codes.
        samples: pictures of window x window codes, drawn together.
        width: of the one large picture, in codes; its height is the window's.
    """
    row = torch.zeros(window, window, dtype=torch.int64)
    row[-1] = -1
    steps = seconds_of_passes(gpt, row, samples)
    column = torch.zeros(window, 2 * window, dtype=torch.int64)
    column[:, window] = -1
    one_window = statistics.median(sum(seconds_of_passes(gpt, column, 1)) for _ in range(3))
    # The first step fills the cache; there is no other in a grid of one row.
    step = statistics.median(steps[1:] or steps)
    return window**2 * step + (width - window + 1) * one_window


def seconds_of_passes(gpt: GPT, known: torch.Tensor, images: int) -> list[float]:
    """What the sampler takes for each of its passes.

    Args:
        known: (H, W) codes, H the window's side; -1 where they are to be drawn.
        images: how many, drawn together.
    """
    times = [time.perf_counter()]
    sample_codes(
        gpt,
        torch.zeros(images, 1, dtype=torch.int64),
        (known.shape[0], known.shape[1]),
        window=known.shape[0],
        known=known,
        seeds=range(images),
        callback=lambda *_: times.append(time.perf_counter()),
    )
    return [end - begin for begin, end in pairwise(times)]


def median_seconds(action: Callable[[], object], repeats: int = 9) -> float:
    """What one call takes, whatever else the machine does now and then."""
    action()  # the first call allocates
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
