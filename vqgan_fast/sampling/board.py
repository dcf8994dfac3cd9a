"""The tokens of a run on the device: conditions and codes side by side, for one gather."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

UNKNOWN = -1  # stands in the codes at the cells that are not drawn yet


class Board:
    """For each image, one row of integers: its conditions, one constant, its codes.

    Columns are computed on the host when a pass is planned; what they hold is read on the device,
    where the codes are drawn.

    Args:
        conditions: for each stream (the condition, and the one without it for guidance) its parts:
            tokens (B, T), or (B, H, W) for the grid's cells.
        codes: (B, H, W) int64, UNKNOWN where a code will be drawn.
        constant: a token that can be addressed for every image.
    """

    def __init__(
        self, conditions: list[tuple[Tensor, ...]], codes: Tensor, constant: int = 0
    ) -> None:
        batch, self.height, self.width = codes.shape
        parts = [part.flatten(1) for stream in conditions for part in stream]
        begins = iter(np.cumsum([0, *(part.shape[1] for part in parts)]).tolist())
        # Of each stream's parts the first column, the number of columns, whether they are a grid.
        self.parts = [
            [(next(begins), part[0].numel(), part.ndim == 3) for part in stream]
            for stream in conditions
        ]
        self.constant_column = next(begins)
        self.code_column = self.constant_column + 1
        extra = torch.full((batch, 1), constant, dtype=torch.int64, device=codes.device)
        self.tokens = torch.cat([*parts, extra, codes.flatten(1)], dim=1)
        self.row_length = self.tokens.shape[1]
        self.logprobs = torch.zeros(codes.shape, dtype=torch.float32, device=codes.device)

    def condition_columns(
        self, stream: int, window_cells: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens before a window's codes stand, one after the other.

        Args:
            stream: which condition.
            window_cells: from the window's first cell to each of its cells, in raster order.

        Returns:
            columns (T,) of the window at the grid's first cell, and how they move, (T,): 1 for what
            slides with the window, 0 for what stays.
        """
        columns, moves = [], []
        for begin, count, spatial in self.parts[stream]:
            columns.append(begin + (window_cells if spatial else np.arange(count)))
            moves.append(np.full(len(columns[-1]), int(spatial)))
        return np.concatenate(columns), np.concatenate(moves)

    @property
    def codes(self) -> Tensor:
        """(B, H, W) int64, a view."""
        return self.tokens[:, self.code_column :].view(-1, self.height, self.width)

    def gather(self, images: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Where in `tokens.flatten()` the images' columns lie."""
        return images * self.row_length + columns

    def put(self, images: Tensor, cells: Tensor, codes: Tensor, logprobs: Tensor) -> None:
        """Writes drawn codes (D,) at the cells' indices (D,) of images (D,)."""
        # Codes last: where an interruption finds a code, it finds its log-probability too.
        self.logprobs.view(-1)[images * (self.height * self.width) + cells] = logprobs
        self.tokens.view(-1)[images * self.row_length + self.code_column + cells] = codes

    def so_far(self) -> tuple[Tensor, Tensor, int]:
        """Copies of codes and log-probabilities, 0 at unknown codes, and how many of these."""
        codes = self.codes.clone()
        unknown = codes == UNKNOWN
        return codes, self.logprobs.masked_fill(unknown, 0), int(unknown.sum())
