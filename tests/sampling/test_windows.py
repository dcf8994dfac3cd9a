"""Where windows lie."""

from __future__ import annotations

import pytest

from vqgan_fast.sampling.schedules import exact_cells
from vqgan_fast.sampling.windows import CodeGrid


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (21, 17), (64, 33)])
def test_windows_of_16_lie_where_the_reference_has_them(height, width):
    grid = CodeGrid(height, width, 16)
    for row in range(height):
        for column in range(width):
            cell = grid.cell(row, column)
            # The reference's s(x, N) = clamp(x - 8, 0, N - 16) and p = 16 (i - si) + (j - sj).
            assert cell.top == max(0, min(row - 8, height - 16))
            assert cell.left == max(0, min(column - 8, width - 16))
            assert cell.rank == 16 * (row - cell.top) + (column - cell.left)
            assert cell.index == row * width + column


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
def test_a_window_of_any_size_holds_its_cell_and_lies_in_the_grid(window):
    grid = CodeGrid(7, 9, window)
    for cell in exact_cells(grid):
        assert 0 <= cell.top <= cell.row < cell.top + window <= 7
        assert 0 <= cell.left <= cell.column < cell.left + window <= 9


@pytest.mark.parametrize("shape", [(15, 16), (16, 15), (8, 64)])
def test_a_grid_smaller_than_the_window(shape):
    message = (
        r"grid must be at least as large as the window, 16 x 16 codes, "
        rf"got {shape[0]} x {shape[1]}"
    )
    with pytest.raises(ValueError, match=message):
        CodeGrid(*shape, 16)


def test_a_window_of_nothing():
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        CodeGrid(4, 4, 0)
