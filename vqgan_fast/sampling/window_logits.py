"""The transformer behind a window: the logits of a cell's code from what its window shows before
it.

The sequence of a cell is

    condition, then the codes of its window in raster order, up to the cell's predecessor

and the last row of logits speaks of the cell. The condition is T tokens that stand before every
window, or a grid of tokens as large as the codes' that is cropped with the window (T = window^2
then). Positions are learned and absolute *within* the window, so keys and values hold only as long
as the window's start stands still: then one token is forwarded for each cell; where the window
moves, the prefix is forwarded anew. The codes after the cell are masked in the reference's full
window and left out here: the logits are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.gpt import GPT
from ..models.kv_cache import KVCache
from ..quantizers.checks import check_indices
from .windows import Cell, CodeGrid


class WindowLogits:
    """Logits of one cell at a time, for a batch of images; every schedule asks for them here.

    Args:
        gpt: the transformer, in eval mode.
        cond: (B, T) tokens, or (B, H, W) tokens for the grid's cells; int64 on gpt's device. It is
            checked here: see Raises.
        grid: the grid of codes and its window.

    Raises:
        ValueError: cond has another shape, is not of integers, holds tokens outside gpt's
            vocabulary or is shorter than the prefix that gpt leaves unmasked; the window does not
            fit gpt's positions.
    """

    def __init__(self, gpt: GPT, cond: Tensor, grid: CodeGrid):
        self.gpt = gpt
        self.cond = cond
        self.grid = grid
        self.spatial = cond.ndim == 3
        self._check()
        self.cache = KVCache(gpt, cond.shape[0], self.cond_length + grid.window**2 - 1)
        self.start: tuple[int, int] | None = None  # of the window that the cache holds

    @property
    def cond_length(self) -> int:
        """T, the tokens before the window's codes."""
        return self.grid.window**2 if self.spatial else self.cond.shape[1]

    def __call__(self, codes: Tensor, cell: Cell) -> Tensor:
        """Logits of the code at `cell`.

        Args:
            codes: (B, H, W) int64, drawn already at every cell that the window shows before `cell`
                and unchanged since earlier calls showed them.
            cell: a cell of the grid; behind the last call's, if it has the same window.

        Returns:
            (B, V) logits.
        """
        start = (cell.top, cell.left)
        if start != self.start:
            self.cache.truncate(0)
            self.start = start
        tokens = self.prefix(codes, cell)[:, self.cache.length :]
        return self.gpt(tokens, cache=self.cache, logits_from=-1)[:, 0]

    def prefix(self, codes: Tensor, cell: Cell) -> Tensor:
        """The sequence before `cell`, (B, T + cell.rank) int64."""
        cond = self._crop(self.cond, cell).flatten(1) if self.spatial else self.cond
        return torch.cat([cond, self._crop(codes, cell).flatten(1)[:, : cell.rank]], dim=1)

    def _crop(self, grid: Tensor, cell: Cell) -> Tensor:
        window = self.grid.window
        return grid[:, cell.top : cell.top + window, cell.left : cell.left + window]

    def _check(self) -> None:
        cond, gpt, grid = self.cond, self.gpt, self.grid
        shapes = f"(B, T) tokens with T >= 1 or (B, {grid.height}, {grid.width}) for the grid"
        if cond.ndim not in (2, 3) or (cond.ndim == 2 and cond.shape[1] == 0):
            raise ValueError(f"cond must be {shapes}, got shape {tuple(cond.shape)}")
        if self.spatial and cond.shape[1:] != (grid.height, grid.width):
            raise ValueError(f"cond must be {shapes}, got shape {tuple(cond.shape)}")
        if cond.shape[0] == 0:
            raise ValueError("cond must hold at least one image, got a batch of 0")
        check_indices("cond", cond, gpt.vocab_size, synchronize=True)
        if self.cond_length < gpt.n_unmasked:
            raise ValueError(
                f"cond must have at least the {gpt.n_unmasked} tokens that gpt.n_unmasked leaves "
                f"unmasked, got {self.cond_length}"
            )
        length = self.cond_length + grid.window**2 - 1
        if length > gpt.block_size:
            raise ValueError(
                f"window must satisfy window^2 + T - 1 <= gpt.block_size = {gpt.block_size}, got "
                f"window = {grid.window} with T = {self.cond_length} condition tokens: {length}"
            )
