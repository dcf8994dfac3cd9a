"""Times several calls in turn, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEAST_ROUNDS, MOST_ROUNDS = 3, 41
# Each peer brings thread pools of its own, whose threads spin for a while after a call.
PAUSE_SECONDS = 1e-2
# A turn lasts at least this long: short calls are repeated.
TURN_SECONDS = 2e-3
# A call of fewer seconds is made once before its turn, untimed, and so warms the caches for itself.
LONGEST_WARMED = 1e-2
WARM_UP_SECONDS = 0.3
# What is slower than this many times the first contender may be timed once, beside its warm-up.
FAR_BEHIND = 20


@dataclass
class Contender:
    """A call to time, what it returns, what must happen before each turn, untimed, and for how long
    it waits before."""

    call: Callable[[], Any]
    prepare: Callable[[], None] | None = None
    pause: float = PAUSE_SECONDS

    def turn(self, repeats: int, warm_up: bool = False) -> float:
        """Seconds of a call, of so many; with warm_up after one that is not timed."""
        time.sleep(self.pause)
        if warm_up:
            self._seconds(1)
        return self._seconds(repeats)

    def _seconds(self, repeats: int) -> float:
        if self.prepare is not None and repeats > 1:
            return sum(self._seconds(1) for _ in range(repeats)) / repeats
        if self.prepare is not None:
            self.prepare()
        start = time.perf_counter()
        for _ in range(repeats):
            self.call()
        return (time.perf_counter() - start) / repeats


def rotate(
    contenders: dict[str, Contender], budget: float, each_round: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each contender's turns.

    Every round starts with another contender. Each gets an equal share of `budget` seconds, and as
    many rounds, spread evenly, as fit into it: at least LEAST_ROUNDS.

    Args:
        contenders: the first of them is the one that the others are compared with.
        budget: seconds for all of them together.
        each_round: called once a round.
    """
    cost = {}
    for name, contender in contenders.items():
        cost[name] = contender.turn(1)
        # The first call of all may make what the others find.
        if cost[name] < WARM_UP_SECONDS:
            cost[name] = contender.turn(1)
    first = next(iter(cost.values()))
    repeats, rounds, warm_up = {}, {}, {}
    for name, seconds in cost.items():
        repeats[name] = max(1, round(TURN_SECONDS / max(seconds, 1e-7)))
        warm_up[name] = seconds < LONGEST_WARMED
        turn = PAUSE_SECONDS + seconds * (repeats[name] + warm_up[name])
        least = 1 if seconds > FAR_BEHIND * first and 3 * seconds > budget else LEAST_ROUNDS
        rounds[name] = min(max(int(budget / len(cost) / turn), least), MOST_ROUNDS)

    names, most = list(contenders), max(rounds.values())
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(most):
        each_round()
        start = i % len(names)
        for name in names[start:] + names[:start]:
            if (i + 1) * rounds[name] // most > i * rounds[name] // most:
                times[name].append(contenders[name].turn(repeats[name], warm_up[name]))
    return times


def spread(seconds: list[float]) -> float:
    """Half of the range between the quartiles, as a share of the median."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / middle
