"""Where windows lie on a grid of codes, and the order in which cells are visited.

A transformer that has learned `window` x `window` codes draws a larger grid by sliding: the window
of cell (i, j) starts at row s(i, H) and column s(j, W), with s(x, N) = clamp(x - window // 2, 0, N
- window), so that the cell lies in its middle, or nearer to the grid's border where the window
would leave the grid.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

from ..quantizers.checks import check_integer

MOST_CELLS = 2**32  # that the random counter tells apart


@dataclass(frozen=True)
class Cell:
    """A cell of a grid and the window in which its code is drawn."""

    row: int
    column: int
    index: int  # row * width of the grid + column: the cell's number in the random counter
    top: int  # first row of the window
    left: int  # first column of the window
    rank: int  # how many codes of the window come before this one in the transformer's order


def height_and_width(name: str, value: Iterable[int]) -> tuple[int, int]:
    """Two integers, Python's or numpy's, as Python's; a ValueError names what is not."""
    try:
        height, width = (operator.index(side) for side in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two integers (H, W), got {value!r}") from None
    return height, width


@dataclass(frozen=True)
class CodeGrid:
    """A height x width grid of codes that is drawn through square windows.

    Raises:
        ValueError: window or grid are not positive, the grid is smaller than the window in either
            direction, or has more than 2^32 cells.
    """

    height: int
    width: int
    window: int

    def __post_init__(self) -> None:
        check_integer("window", self.window)
        if min(self.height, self.width) < 1:
            raise ValueError(f"grid must be positive, got {self.height} x {self.width}")
        if min(self.height, self.width) < self.window:
            raise ValueError(
                f"grid must be at least as large as the window, {self.window} x {self.window} "
                f"codes, got {self.height} x {self.width}; or give a smaller window"
            )
        if self.num_cells > MOST_CELLS:
            raise ValueError(f"grid must have at most 2^32 cells, got {self.height} x {self.width}")

    @property
    def num_cells(self) -> int:
        return self.height * self.width

    def cell(self, row: int, column: int) -> Cell:
        """The cell at (row, column) in the window that the reference gives it."""
        top = self._window_start(row, self.height)
        left = self._window_start(column, self.width)
        return self.cell_in(row, column, top, left)

    def cell_in(self, row: int, column: int, top: int, left: int) -> Cell:
        """The cell at (row, column) in the window that starts at (top, left)."""
        return Cell(
            row=row,
            column=column,
            index=row * self.width + column,
            top=top,
            left=left,
            rank=(row - top) * self.window + (column - left),
        )

    def _window_start(self, position: int, size: int) -> int:
        return min(max(position - self.window // 2, 0), size - self.window)
