"""Sampling with relative positions: the native schedule, one token for each code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..models.window_gpt import rotation_angles
from .board import Board
from .engine import MAX_TOKENS, Draws, Engine
from .packed import PackedTransformer
from .ring_schedule import RingCell, ring_rows

Pass = list[tuple[int, int, RingCell]]  # image, its slot, and a cell of it


class RingEngine(Engine):
    """Forwards each cell once, with keys and values in a ring of rows for each image.

    Args:
        packed, board, draws: as for Engine; the board's constant is the row token.
        steps: for each image the steps of its schedule.
        max_cache_bytes: as many images are drawn at the same time as fit in it.

    Raises:
        ValueError: max_cache_bytes is too small for one image.
    """

    def __init__(
        self,
        packed: PackedTransformer,
        board: Board,
        draws: Draws,
        steps: Sequence[Sequence[list[RingCell]]],
        max_cache_bytes: int,
    ) -> None:
        super().__init__(packed, board, draws)
        self.steps = steps
        self.reach = packed.model.reach
        rows = ring_rows(self.reach)
        image_bytes = packed.token_bytes() * rows * board.width * self.num_streams
        if max_cache_bytes < image_bytes:
            raise ValueError(
                f"max_cache_bytes (--cache-gb) must be at least {image_bytes} bytes, which the "
                f"ring of one image takes, got {max_cache_bytes}"
            )
        self.num_slots = min(len(steps), max_cache_bytes // image_bytes)
        self.k_cache, self.v_cache = packed.new_cache(
            self.num_slots * self.num_streams, rows, board.width
        )
        # An angle belongs to a row or to a column, so that one table for each holds them all.
        numbers = torch.arange(max(board.height, board.width), device=packed.device)
        angles = rotation_angles(numbers, numbers, packed.head_dim)
        self.tables = [
            half.float() for table in (angles.cos(), angles.sin()) for half in table.chunk(2, dim=1)
        ]

    def passes(self) -> Iterator[Pass]:
        max_tokens = MAX_TOKENS // self.num_streams
        for first in range(0, len(self.steps), self.num_slots):
            group = self.steps[first : first + self.num_slots]
            for together in zip_longest(*group):
                step = [
                    (first + slot, slot, cell)
                    for slot, cells in enumerate(together) for cell in cells or ()
                ]  # fmt: skip
                # An image's cells ascend, so that none attends a cell of a later part.
                yield from (step[i : i + max_tokens] for i in range(0, len(step), max_tokens))

    def advance(self, one_pass: Pass) -> int:
        images, slots, cells = zip(*one_pass, strict=True)
        images, slots = np.array(images), np.array(slots)
        row, column, draw = np.array(cells).T
        draw = draw.astype(bool)
        index = row * self.board.width + column
        left_code = np.where(
            column > 0, self.board.code_column + index - 1, self.board.constant_column
        )
        parts = []
        for stream in range(self.num_streams):
            ((begin, _, spatial),) = self.board.parts[stream]
            condition = begin + (index if spatial else 0 * index)
            parts.append(
                (
                    self.board.gather(images, left_code),
                    self.board.gather(images, condition),
                    slots * self.num_streams + stream,
                    row,
                    column,
                )
            )
        rows = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        drawn = draw.nonzero()[0]
        last = np.concatenate([drawn + i * len(row) for i in range(self.num_streams)])
        self.run(rows, last, images[drawn], index[drawn])
        return len(drawn)

    def forward(
        self, tokens: Tensor, conditions: Tensor, slots: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        packed, board = self.packed, self.board.tokens.view(-1)
        x = packed.tok_emb[board[tokens]] + packed.cond_emb[board[conditions]]
        cos_row, cos_column, sin_row, sin_column = self.tables
        cos = torch.cat([cos_row[rows], cos_column[columns]], dim=1)
        sin = torch.cat([sin_row[rows], sin_column[columns]], dim=1)
        caches, width = (self.k_cache, self.v_cache), self.board.width
        return ops.decode_grid_layers(
            x, packed.layers, *caches, slots, rows, columns, cos, sin, width,
            up=self.reach, left=self.reach, right=self.reach - 1,
        )  # fmt: skip
