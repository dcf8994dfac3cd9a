"""How much of the time training waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from .distributed import Ranks

Item = TypeVar("Item")


class DataWait:
    """The share of the time since the last report that was spent waiting for the next batch.

    On a GPU it is the time in which no new work can be given to it: an upper bound of the time in
    which it stands still.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._waited = 0.0
        self._since = time.monotonic()

    def watch(self, source: Iterator[Item]) -> Iterator[Item]:
        """The same items, with an eye on the clock."""
        while True:
            asked = time.monotonic()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            yield item

    def share(self) -> float:
        """Between 0 and 1, of the rank that waited longest; the next interval begins."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return self._ranks.largest([round(share * 1e6)])[0] / 1e6
