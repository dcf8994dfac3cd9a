"""The schedule of the native windowed model: each cell goes through the transformer once.

A cell attends `reach` rows above it and its own row up to itself. Keys and values never go stale,
so a ring of reach + 2 rows holds all that is needed, and a cell that is known is forwarded as well
(later cells attend it), many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class RingCell(NamedTuple):
    """A cell to forward, whose code is then drawn unless it is known."""

    row: int
    column: int
    draw: bool


def ring_rows(reach: int) -> int:
    """How many rows the ring of keys and values has."""
    return reach + 2


def ring_steps(known: np.ndarray, reach: int, order: str) -> Iterator[list[RingCell]]:
    """The steps of a grid; cells of one step may be forwarded in one call.

    In "raster" order each unknown cell has a step of its own. In a "wavefront" each cell comes in
    the first step that its dependencies allow:

    - its input, the code to its left, has been drawn, so it comes after that cell, or with it where
      that code is known;
    - so do the keys and values that it attends, (i - 1, j + reach - 1) the last of them. Without
      known cells these two make the wavefront of skew `reach`;
    - its own overwrite those of row i - reach - 2, which (i - 2, j + reach) must have attended.

    Args:
        known: (H, W) bool, the cells that need no drawing. Those behind the last unknown one are
            not forwarded.
        reach: rows above that a cell attends.
        order: "raster" or "wavefront".
    """
    width = known.shape[1]
    unknown = np.flatnonzero(~known)
    last = int(unknown[-1]) if unknown.size else -1
    when = np.zeros(known.shape, dtype=np.int64)
    steps: list[list[RingCell]] = []
    newest = -1  # for raster order: the step of the cell before
    for index in range(last + 1):
        row, column = divmod(index, width)
        step = 0
        if column > 0:
            step = when[row, column - 1] + (not known[row, column - 1])
        if row > 0:
            right = min(column + reach - 1, width - 1)
            step = max(step, when[row - 1, right] + (not known[row - 1, right]))
        if row > 1:
            step = max(step, when[row - 2, min(column + reach, width - 1)] + 1)
        draw = not known[row, column]
        if order == "raster":
            drawn_before = newest >= 0 and any(cell.draw for cell in steps[newest])
            step = max(step, newest + (draw and drawn_before))
        when[row, column] = newest = int(step)
        while len(steps) <= newest:
            steps.append([])
        steps[newest].append(RingCell(row, column, draw))
    return iter(steps)
