"""The plan of a sampling run: which tokens go through the transformer when, and where their keys
and values lie.

Keys and values of a window's tokens hold for as long as the window's start stands still, because
positions are learned inside the window. So each window that is in use has a slot of the cache, and
a visit to one of its cells forwards only the tokens that the slot does not hold yet. With a slot
for every window that will be visited again, no token is forwarded twice. With fewer, a window whose
next visit is the furthest away loses its slot and is forwarded anew when it comes (Belady's rule):
more tokens, the same codes.

Nothing here knows a model: a plan is made before the first token is forwarded.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from .schedules import Step
from .windows import Cell

Key = tuple[int, int, int]  # image, top, left: whose keys and values a slot holds


@dataclass(frozen=True)
class Visit:
    """One draw: forward the tokens `start` ... `stop` - 1 of a window, draw from the last one's
    row.

    A window's tokens are the condition's, then its codes in raster order.
    """

    image: int
    cell: Cell
    slot: int  # of the cache
    start: int  # how many of the window's tokens the slot holds already
    stop: int  # condition tokens + rank of the cell


Pass = list[Visit]  # what goes through the transformer in one call


class Request(NamedTuple):
    """A cell of an image, and the number of the request that comes back to its window."""

    image: int
    cell: Cell
    next_use: float  # inf: none does

    @property
    def key(self) -> Key:
        return self.image, self.cell.top, self.cell.left


def requests(steps: Sequence[Iterable[Step]]) -> list[list[Request]]:
    """The images' steps side by side.

    Args:
        steps: for each image its steps.

    Returns:
        For each step the cells of all images that are drawn in it.
    """
    merged = [
        [(image, cell) for image, cells in enumerate(together) for cell in cells or ()]
        for together in zip_longest(*steps)
    ]
    number = sum(map(len, merged))
    next_use: dict[Key, int] = {}
    result: list[list[Request]] = []
    for step in reversed(merged):
        backwards = []
        for image, cell in reversed(step):
            number -= 1
            key = (image, cell.top, cell.left)
            backwards.append(Request(image, cell, next_use.get(key, math.inf)))
            next_use[key] = number
        result.append(backwards[::-1])
    return result[::-1]


def windows_in_use(steps: Iterable[Sequence[Request]]) -> int:
    """How many slots there must be so that no token is forwarded twice."""
    live: set[Key] = set()
    most = 0
    for step in steps:
        live.update(request.key for request in step)
        most = max(most, len(live))
        live.difference_update(r.key for r in step if math.isinf(r.next_use))
    return most


def passes(
    steps: Iterable[Sequence[Request]], prefix: int, num_slots: int, max_tokens: float = math.inf
) -> Iterator[Pass]:
    """The visits of a run, in passes of visits that do not depend on each other.

    A step is one pass, or several where it has more windows than there are slots or more tokens
    than a pass may have (a single visit may exceed that).

    Args:
        steps: what `requests` made.
        prefix: T, the condition tokens in front of each window's codes.
        num_slots: how many windows the cache holds, >= 1.
        max_tokens: in one pass.
    """
    slots = _Slots(num_slots)
    for step in steps:
        visits: Pass = []
        tokens = 0
        for request in step:
            stop = prefix + request.cell.rank
            cost = stop - slots.length(request.key)
            if visits and (len(visits) == num_slots or tokens + cost > max_tokens):
                yield visits
                slots.end_of_pass()
                visits, tokens = [], 0
                cost = stop - slots.length(request.key)
            slot, start = slots.visit(request, stop)
            visits.append(Visit(request.image, request.cell, slot, start, stop))
            tokens += stop - start
        if visits:
            yield visits
            slots.end_of_pass()


class _Slots:
    """Which window lies in which slot, and how much of it."""

    def __init__(self, number: int) -> None:
        self.free = list(range(number))[::-1]
        self.held: dict[Key, tuple[int, int]] = {}  # slot and length
        self.next_use: dict[Key, float] = {}
        self.furthest: list[tuple[float, Key]] = []  # a heap; entries that are out of date stay
        self.in_pass: list[Request] = []

    def length(self, key: Key) -> int:
        return self.held.get(key, (0, 0))[1]

    def visit(self, request: Request, stop: int) -> tuple[int, int]:
        """The slot of a window and the length that it holds; afterwards it holds `stop` tokens."""
        key = request.key
        self.in_pass.append(request)
        slot, start = self.held.get(key) or (self._take(), 0)
        self.held[key] = (slot, stop)
        return slot, start

    def end_of_pass(self) -> None:
        """Gives back the slots of windows that nothing returns to."""
        for request in self.in_pass:
            key = request.key
            if math.isinf(request.next_use):
                self.free.append(self.held.pop(key)[0])
                self.next_use.pop(key, None)
            else:
                self.next_use[key] = request.next_use
                heapq.heappush(self.furthest, (-request.next_use, key))
        self.in_pass.clear()

    def _take(self) -> int:
        if self.free:
            return self.free.pop()
        # Never from a window of this pass, which has no more windows than there are slots: what
        # stands here for it is the number of its visit, lower than any other window's next.
        while True:
            next_use, key = heapq.heappop(self.furthest)
            if self.next_use.get(key) == -next_use:
                break
        del self.next_use[key]
        return self.held.pop(key)[0]
