"""Sampling with learned absolute positions: the schedules of windows that move over the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from .. import ops
from ..models.orderings import ordered_cells
from .board import Board
from .engine import MAX_TOKENS, Draws, Engine
from .packed import PackedTransformer
from .plan import Pass, passes, requests, windows_in_use
from .schedules import Step


class WindowEngine(Engine):
    """Forwards what is missing of each window, then draws the cell behind it.

    The sequence of a cell is the condition (its tokens, and the window's crops of grids of them)
    and the codes of its window in raster order, up to the cell's predecessor. What comes after the
    cell is masked in the reference's full window and left out here: the logits are the same.

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
        # From a window's first cell to each of its cells: in raster order, as conditions stand, and
        # in the order in which the transformer reads codes.
        raster = (np.arange(window)[:, None] * board.width + np.arange(window)).ravel()
        self.code_cells = raster[ordered_cells(packed.model.ordering, window, window).numpy()]
        # The condition tokens before a window's codes, for each stream.
        self.conditions = [
            board.condition_columns(stream, raster) for stream in range(self.num_streams)
        ]
        self.prefixes = [len(columns) for columns, _ in self.conditions]
        self.requests = requests(steps)
        length = max(self.prefixes) + window**2 - 1
        window_bytes = packed.token_bytes() * length * self.num_streams
        if max_cache_bytes < window_bytes:
            raise ValueError(
                f"max_cache_bytes (--cache-gb) must be at least {window_bytes} bytes, which the "
                f"keys and values of one window take, got {max_cache_bytes}"
            )
        in_use = max(windows_in_use(self.requests), 1)
        self.num_slots = min(in_use, max_cache_bytes // window_bytes)
        self.k_cache, self.v_cache = packed.new_cache(self.num_slots * self.num_streams, length)

    def passes(self) -> Iterator[Pass]:
        max_tokens = MAX_TOKENS // self.num_streams
        return passes(self.requests, self.prefixes[0], self.num_slots, max_tokens)

    def advance(self, one_pass: Pass) -> int:
        plan = np.array(
            [
                (v.image, v.cell.index, v.cell.top, v.cell.left, v.cell.rank, v.slot, v.start)
                for v in one_pass
            ]
        )
        parts = [self._rows(plan, stream) for stream in range(self.num_streams)]
        # Tokens, slots, positions, ends.
        rows = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        # No two visits of a pass have the same slot: where it changes, one ends.
        last = np.append(np.diff(rows[1]) != 0, True).nonzero()[0]
        self.run(rows, last, plan[:, 0], plan[:, 1])
        return len(one_pass)

    def _rows(self, plan: np.ndarray, stream: int) -> tuple[np.ndarray, ...]:
        """Where the tokens of all visits stand on the board, their slots, positions and ends."""
        board, prefix = self.board, self.prefixes[stream]
        images, _, top, left, rank, slots, starts = plan.T
        # A plan counts with the first stream's condition; another may have another length.
        starts = np.where(starts > 0, starts - self.prefixes[0] + prefix, 0)
        counts = prefix + rank - starts
        visit = np.repeat(np.arange(len(plan)), counts)
        positions = np.arange(len(visit)) + (starts - np.cumsum(counts) + counts)[visit]
        corners = (top * board.width + left)[visit]
        codes = board.code_column + corners + self.code_cells[np.maximum(positions - prefix, 0)]
        before, moves = self.conditions[stream]
        place = np.minimum(positions, prefix - 1)
        condition = before[place] + moves[place] * corners
        columns = np.where(positions < prefix, condition, codes)
        ends = np.maximum(positions + 1, self.packed.model.n_unmasked)
        slots = slots[visit] * self.num_streams + stream
        return board.gather(images[visit], columns), slots, positions, ends

    def forward(self, tokens: Tensor, slots: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
        packed = self.packed
        embedded = packed.tok_emb[self.board.tokens.view(-1)[tokens]]
        x = embedded + packed.pos_emb[positions]
        caches = (self.k_cache, self.v_cache)
        return ops.decode_layers(x, packed.layers, *caches, slots, positions, ends)
