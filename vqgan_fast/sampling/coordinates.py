"""The condition of models that were trained with coordinates: where in its picture a cell lies."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.map_conditions import coordinate_token
from ..quantizers.checks import check_integer
from .windows import height_and_width


def coordinate_tokens(grid: tuple[int, int], num_tokens: int, factor: int = 16) -> Tensor:
    """Tokens (1, H, W) on the CPU for the cells of a grid, a condition for `sample_codes`.

    A pixel's coordinate is its place in raster order as a share of all pixels; a cell's is the mean
    of its factor x factor pixels; the token is round(num_tokens * coordinate), as in the
    reference's CoordStage. On a grid larger than in training, coordinates stretch with the picture.

    Args:
        grid: (H, W) in codes.
        num_tokens: what the coordinate is multiplied by; tokens lie in [0, num_tokens).
        factor: the downsampling factor f.

    Raises:
        ValueError: the grid is not two positive integers, or another argument no positive integer.
    """
    height, width = height_and_width("grid", grid)
    for name, value in (("grid", height), ("grid", width), ("num_tokens", num_tokens)):
        check_integer(name, value)
    check_integer("factor", factor)
    middle = (factor - 1) / 2  # the mean of 0 ... factor - 1
    rows = factor * torch.arange(height, dtype=torch.float64, device="cpu")[:, None] + middle
    columns = factor * torch.arange(width, dtype=torch.float64, device="cpu") + middle
    share = (rows * factor * width + columns) / (factor**2 * height * width)
    return coordinate_token(share, num_tokens)[None]
