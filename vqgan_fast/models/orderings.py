"""The order in which a transformer reads the codes of a grid.

The paper compares six (Esser et al. 2021, Figure 47 of the supplement); row by row is best and what
everything else here assumes. An ordering visits each cell once; these visit the cells as the
reference's permuters of the same names do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

ROW_MAJOR = "row_major"


def _row_major(height: int, width: int) -> np.ndarray:
    return np.arange(height * width)


def _alternate(height: int, width: int) -> np.ndarray:
    """Rows from left to right and from right to left in turn, as an ox ploughs."""
    cells = np.arange(height * width).reshape(height, width)
    cells[1::2] = cells[1::2, ::-1]
    return cells.ravel()


def _z_curve(height: int, width: int) -> np.ndarray:
    """By the Morton code: quarters of quarters, each read like a Z."""
    return np.argsort(_bits(height, width) @ _place_values(height, width), kind="stable")


def _subsample(height: int, width: int) -> np.ndarray:
    """Coarse to fine: every second row and column first, in the same way among themselves."""
    lowest_first = _place_values(height, width).reshape(-1, 2)[::-1].ravel()
    return np.argsort(_bits(height, width) @ lowest_first, kind="stable")


def _spiral_out(height: int, width: int) -> np.ndarray:
    """From the middle outwards: up, right, down, left."""
    if height != width:
        raise ValueError(f"a spiral needs a square grid, got {height} x {width}")
    row, column = height // 2, (width - 1) // 2
    cells = [row * width + column]
    steps = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    for arm in range(2 * height):
        down, right = steps[arm % 4]
        for _ in range(arm // 2 + 1):  # arms of 1, 1, 2, 2, 3, 3, ... cells
            if len(cells) == height * width:
                return np.array(cells)
            row, column = row + down, column + right
            cells.append(row * width + column)
    return np.array(cells)


def _spiral_in(height: int, width: int) -> np.ndarray:
    """From a corner inwards, the way of `_spiral_out` back."""
    return _spiral_out(height, width)[::-1].copy()


def _bits(height: int, width: int) -> np.ndarray:
    """Of each cell the bits of its row and column in turn, (H W, 2 bits), the lowest first."""
    cells = np.arange(height * width)
    row, column = cells // width, cells % width
    number = max(height - 1, width - 1).bit_length()
    bits = [part >> place & 1 for place in range(number) for part in (column, row)]
    return np.stack(bits, axis=1) if bits else np.zeros((1, 0), dtype=np.int64)


def _place_values(height: int, width: int) -> np.ndarray:
    return 2 ** np.arange(2 * max(height - 1, width - 1).bit_length())


ORDERINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    ROW_MAJOR: _row_major,
    "spiral_in": _spiral_in,
    "spiral_out": _spiral_out,
    "z_curve": _z_curve,
    "subsample": _subsample,
    "alternate": _alternate,
}


def check_ordering(name: str) -> None:
    """ValueError unless there is an ordering of that name."""
    if name not in ORDERINGS:
        raise ValueError(f"ordering must be one of {', '.join(ORDERINGS)}, got {name!r}")


# Of arrays, not of tensors: a tensor is of the mode that it was made in (inference, fake).
@lru_cache(maxsize=64)
def _cells(name: str, height: int, width: int) -> np.ndarray:
    check_ordering(name)
    return ORDERINGS[name](height, width)


def ordered_cells(name: str, height: int, width: int) -> Tensor:
    """Which cell comes when: (H W,) int64 on the CPU, cells counted row by row.

    `codes.flatten(1)[:, ordered_cells(...)]` puts codes (B, H, W) into the order.

    Raises:
        ValueError: an unknown name; a spiral on a grid that is not square.
    """
    return torch.from_numpy(_cells(name, height, width).copy())


def ranks_of_cells(name: str, height: int, width: int) -> Tensor:
    """When each cell comes: the inverse permutation of `ordered_cells`, shape and errors as there.

    `sequence[:, ranks_of_cells(...)]` puts a sequence in the order back row by row.
    """
    return ordered_cells(name, height, width).argsort()
