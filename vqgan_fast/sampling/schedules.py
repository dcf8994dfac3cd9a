"""Schedules: in which window each cell is drawn, and which cells are drawn at the same time.

A schedule lists the cells of a grid, each with its window, so that a cell comes after every cell
that its window shows before it. An order makes steps of that list: one cell at a time ("raster"),
or as many as do not depend on each other ("wavefront"). What a cell sees is the same in either
order, so its code is as well.

Both orders leave out what is known already, and a wavefront counts dependencies between unknown
cells only: a picture with a hole takes as many steps as the longest path through the hole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from .windows import Cell, CodeGrid

Step = list[Cell]  # cells that do not depend on each other


def exact_cells(grid: CodeGrid) -> list[Cell]:
    """Every cell in the window of its own that the reference gives it, row by row."""
    return [grid.cell(row, column) for row in range(grid.height) for column in range(grid.width)]


def window_cells(grid: CodeGrid, order: Sequence[int]) -> list[Cell]:
    """Every cell of a grid of one window, in an order of its own (cell numbers, row by row)."""
    return [
        replace(grid.cell_in(*divmod(cell, grid.width), 0, 0), rank=rank)
        for rank, cell in enumerate(order)
    ]


def block_cells(grid: CodeGrid, stride: int) -> list[Cell]:
    """Windows at multiples of the stride; each draws the cells that no window before it has drawn.

    The windows start at 0, s, 2s, ... in either direction, the last one where it touches the
    border. They come row by row, and so do the cells of each.
    """
    drawn = np.zeros((grid.height, grid.width), dtype=bool)
    cells = []
    for top in block_starts(grid.height, grid.window, stride):
        for left in block_starts(grid.width, grid.window, stride):
            window = drawn[top : top + grid.window, left : left + grid.window]
            for row, column in np.argwhere(~window).tolist():
                cells.append(grid.cell_in(row + top, column + left, top, left))
            window[:] = True
    return cells


def block_starts(size: int, window: int, stride: int) -> list[int]:
    """0, stride, 2 stride, ... and the last start that fits, each once."""
    return [*range(0, size - window, stride), size - window]


def raster_steps(cells: Sequence[Cell], known: np.ndarray) -> Iterator[Step]:
    """One unknown cell at a time.

    Args:
        cells: a schedule's cells.
        known: (H, W) bool, the cells that need no drawing.
    """
    return ([cell] for cell in cells if not known[cell.row, cell.column])


def wavefront_steps(cells: Sequence[Cell], known: np.ndarray, window: int) -> Iterator[Step]:
    """Every unknown cell in the first step in which all that it depends on is drawn.

    A cell's step is one more than the latest step of the unknown cells that its window shows before
    it: those of the window's rows above, and those to its left. Within a window of 16 x 16 on a
    grid without known cells this is the wavefront of skew 16 for the exact schedule.

    Args:
        cells: a schedule's cells.
        known: (H, W) bool, the cells that need no drawing.
        window: side of the windows.
    """
    when = np.zeros(known.shape, dtype=np.int64)  # 0: known
    steps: list[Step] = []
    for cell in cells:
        if known[cell.row, cell.column]:
            continue
        above = when[cell.top : cell.row, cell.left : cell.left + window]
        before = when[cell.row, cell.left : cell.column]
        number = int(max(above.max(initial=0), before.max(initial=0)))
        when[cell.row, cell.column] = number + 1
        if number == len(steps):
            steps.append([])
        steps[number].append(cell)
    return iter(steps)
