"""Sampling from a convolutional model: the whole grid goes through it for each code.

PixelSNAIL's attention keeps no keys and values from one code to the next here, so that a code costs
a pass over the grid: H W times what a code costs a GPT, and what the definition says, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models import PixelSNAIL
from ..models.evaluating import evaluating
from .board import Board
from .engine import MAX_TOKENS, Draws, Engine
from .packed import WholeGridModel

Pass = tuple[int, np.ndarray]  # a cell's index, and the images in which it is drawn


class GridEngine(Engine):
    """Draws cell after cell, row by row.

    Args:
        packed, board, draws: as for Engine.
        conditions: for each stream (B, 1) tokens, or (B, H, W).
        is_known: (B, H, W) bool, the cells that need no drawing.
    """

    packed: WholeGridModel

    def __init__(
        self,
        packed: WholeGridModel,
        board: Board,
        draws: Draws,
        conditions: Sequence[Tensor],
        is_known: np.ndarray,
    ) -> None:
        super().__init__(packed, board, draws)
        self.conditions = conditions
        self.unknown = ~is_known.reshape(len(is_known), -1)

    def passes(self) -> Iterator[Pass]:
        at_once = max(MAX_TOKENS // self.unknown.shape[1], 1)
        for cell in range(self.unknown.shape[1]):
            images = np.flatnonzero(self.unknown[:, cell])
            yield from ((cell, images[i : i + at_once]) for i in range(0, len(images), at_once))

    def advance(self, one_pass: Pass) -> int:
        cell, images = one_pass
        cells = np.full_like(images, cell)
        self.run([images, cells], np.arange(self.num_streams * len(images)), images, cells)
        return len(images)

    def forward(self, images: Tensor, cells: Tensor) -> Tensor:
        """Features (streams * D, C) of the cells (D,) of images (D,), stream by stream."""
        model: PixelSNAIL = self.packed.model
        # What is unknown lies behind the cell, where the model does not look.
        codes = self.board.codes[images].clamp_min(0)
        rows = torch.arange(len(images), device=images.device)
        with evaluating(model):
            return torch.cat([
                model.features(codes, condition[images])[rows, cells]
                for condition in self.conditions
            ])  # fmt: skip
