"""Sampling with learned absolute positions: the schedules of windows that move over the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .. import ops
from .board import Board
from .engine import MAX_TOKENS, Draws, Engine
from .packed import PackedTransformer
from .plan import Pass, passes, requests, windows_in_use
from .schedules import Step


class WindowEngine(Engine):
    """Forwards what is missing of each window, then draws the cell behind it.

    The sequence of a cell is the condition (its tokens, or the window's crop of a grid of them) and
    the codes of its window in raster order, up to the cell's predecessor. What comes after the cell
    is masked in the reference's full window and left out here: the logits are the same.

    Args:
        packed, board, draws: as for Engine.
        window: side of the windows.
        steps: for each image the steps of its schedule.
        max_cache_bytes: as many windows' keys and values are kept as fit in it, and as are needed.

    Raises:
        ValueError: max_cache_bytes is too small for one window.
    """

    def __init__(
        self,
        packed: PackedTransformer,
        board: Board,
        draws: Draws,
        window: int,
        steps: Sequence[Sequence[Step]],
        max_cache_bytes: int,
    ) -> None:
        super().__init__(packed, board, draws)
        self.window = window
        ranks = np.arange(window**2)
        # From a window's first cell to each of its cells, in the grid's raster order.
        self.window_cells = ranks // window * board.width + ranks % window
        self.requests = requests(steps)
        length = max(self.prefixes) + window**2 - 1
        window_bytes = packed.token_bytes() * length * self.num_streams
        if max_cache_bytes < window_bytes:
            raise ValueError(
                f"max_cache_bytes must be at least {window_bytes}, which the keys and values of "
                f"one window take, got {max_cache_bytes}"
            )
        in_use = max(windows_in_use(self.requests), 1)
        self.num_slots = min(in_use, max_cache_bytes // window_bytes)
        self.k_cache, self.v_cache = packed.new_cache(self.num_slots * self.num_streams, length)

    @property
    def prefixes(self) -> list[int]:
        """The number of condition tokens before a window's codes, for each stream."""
        ends = [*self.board.condition_columns[1:], self.board.constant_column]
        return [
            self.window**2 if spatial else end - begin
            for spatial, begin, end in zip(
                self.board.is_spatial, self.board.condition_columns, ends, strict=True
            )
        ]

    def passes(self) -> Iterator[Pass]:
        max_tokens = MAX_TOKENS // self.num_streams
        return passes(self.requests, self.prefixes[0], self.num_slots, max_tokens)

    def advance(self, one_pass: Pass) -> int:
        parts = [
            self._tokens(visit, stream) for stream in range(self.num_streams) for visit in one_pass
        ]
        # Tokens, slots, positions, ends.
        rows = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        last = np.cumsum([len(part[0]) for part in parts]) - 1
        images = np.array([visit.image for visit in one_pass])
        cells = np.array([visit.cell.index for visit in one_pass])
        self.run(rows, last, images, cells)
        return len(one_pass)

    def _tokens(self, visit: Any, stream: int) -> tuple[np.ndarray, ...]:
        """Where the tokens of a visit stand on the board, their slot, positions and ends."""
        board, cell, prefix = self.board, visit.cell, self.prefixes[stream]
        corner = cell.top * board.width + cell.left
        # A plan counts with the first stream's condition; another may have another length.
        codes_before = visit.start - self.prefixes[0]
        start = prefix + codes_before if visit.start else 0
        columns = board.code_column + corner + self.window_cells[max(codes_before, 0) : cell.rank]
        if start == 0:
            tokens = self.window_cells + corner if board.is_spatial[stream] else np.arange(prefix)
            columns = np.concatenate([board.condition_columns[stream] + tokens, columns])
        positions = np.arange(start, prefix + cell.rank)
        ends = np.maximum(positions + 1, self.packed.model.n_unmasked)
        slot = np.full(len(positions), visit.slot * self.num_streams + stream)
        return board.gather(np.int64(visit.image), columns), slot, positions, ends

    def forward(self, tokens: Tensor, slots: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
        packed = self.packed
        embedded = packed.tok_emb[self.board.tokens.view(-1)[tokens]]
        x = embedded + packed.pos_emb[positions]
        caches = (self.k_cache, self.v_cache)
        return ops.decode_layers(x, packed.layers, *caches, slots, positions, ends)
