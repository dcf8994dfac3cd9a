"""What runs a plan, whatever the schedule: passes of tokens through packed layers, then draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .board import Board
from .capture import CapturedSteps
from .draw import DrawRule
from .logits_error import LogitsError
from .packed import Packed

# Tokens in one pass: enough for full speed, few enough that activations stay small.
MAX_TOKENS = 4096


@dataclass(frozen=True)
class Draws:
    """How the codes of a run are drawn.

    Attributes:
        rule: the same for all.
        seeds: (B,) int64, on the transformer's device.
        num_codes: codes in [0, num_codes) only.
        guidance: of each cell in raster order; None where there is no second stream.
    """

    rule: DrawRule
    seeds: Tensor
    num_codes: int
    guidance: np.ndarray | None


class Engine(ABC):
    """Plans a run and takes it one pass at a time; what was drawn stands in `board`.

    Args:
        packed: the transformer.
        board: the tokens of the run.
        draws: how codes are drawn.
    """

    def __init__(self, packed: Packed, board: Board, draws: Draws) -> None:
        self.packed = packed
        self.board = board
        self.draws = draws
        self.num_streams = len(board.parts)
        self.captured = CapturedSteps(packed.device)
        self.tokens_forwarded = 0

    @abstractmethod
    def passes(self) -> Iterator[Sequence[Any]]:
        """What to forward and draw, in passes for `advance`; they must be taken in this order."""

    @abstractmethod
    def advance(self, one_pass: Sequence[Any]) -> int:
        """Forwards one pass and draws its codes; returns how many."""

    @abstractmethod
    def forward(self, *rows: Tensor) -> Tensor:
        """The last layer's output (R, C) of the rows that `advance` planned."""

    @torch.no_grad()
    def run(
        self,
        rows: Sequence[np.ndarray],
        last: np.ndarray,
        images: np.ndarray,
        cells: np.ndarray,
    ) -> None:
        """Forwards rows, then draws from some of them.

        Args:
            rows: what `forward` takes, (R,) int64 each.
            last: (streams * D,) which rows predict the D codes, stream by stream.
            images, cells: (D,) int64, whose codes these are: the image, and the cell's index.
        """
        self.tokens_forwarded += len(rows[0])
        device = self.packed.device
        arrays = (*rows, last, images, cells)
        lengths = tuple(len(array) for array in arrays)
        numbers = torch.from_numpy(np.concatenate(arrays))
        if device.type == "cuda":
            numbers = numbers.pin_memory()  # or the copy would wait for all that runs there
        numbers = numbers.to(device, non_blocking=True)
        groups: list[tuple[float, Tensor | None]] = [(1.0, None)]
        if self.draws.guidance is not None and len(images):
            values, group = np.unique(self.draws.guidance[cells], return_inverse=True)
            groups = [
                (float(value), torch.from_numpy((group == i).nonzero()[0]).to(device))
                for i, value in enumerate(values)
            ]
            if len(groups) == 1:
                groups = [(groups[0][0], None)]
        step = partial(self._step, groups, lengths)
        # A step of single tokens comes again and again with the same shapes; a prefill does not.
        if len(rows[0]) == len(last) and groups[0][1] is None:
            self.captured(step, [numbers], key=(groups[0][0], lengths))
        else:
            step([numbers])

    def _step(
        self,
        groups: list[tuple[float, Tensor | None]],
        lengths: tuple[int, ...],
        numbers: list[Tensor],
    ) -> None:
        """Everything of a pass that happens on the device; nothing here waits for it."""
        *rows, last, images, cells = numbers[0].split(lengths)
        # Weights and sums have their types; autocast around the caller is for training.
        with torch.autocast(self.packed.device.type, enabled=False):
            x = self.forward(*rows)
            if len(images) == 0:
                return
            logits = self.packed.logits(x[last])[:, : self.draws.num_codes]
        conditional, *unconditional = logits.chunk(self.num_streams)
        uncond = unconditional[0] if unconditional else None
        for guidance, group in groups:
            chosen = (images, cells, conditional, uncond)
            if group is not None:
                chosen = tuple(None if part is None else part[group] for part in chosen)
            self._draw(*chosen, guidance)

    def _draw(
        self,
        images: Tensor,
        cells: Tensor,
        logits: Tensor,
        uncond: Tensor | None,
        guidance: float,
    ) -> None:
        seeds = self.draws.seeds[images]
        try:
            codes, logprobs = self.draws.rule.draw(logits, seeds, cells, uncond, guidance)
        except RuntimeError:
            if logits.is_cuda:  # refuses none there, and asking for values would have to wait
                raise
            # Logits that the op refuses; it knows rows and not cells. NaN is every maximum's.
            both = logits if uncond is None else logits + uncond
            refused = (~both.amax(1).isfinite()).nonzero()
            if len(refused) == 0:
                if uncond is not None and _overflows(logits, uncond, guidance):
                    raise ValueError(
                        "guidance must leave the guided logits finite in fp64, got "
                        f"{guidance!r}: give a number nearer to 1"
                    ) from None
                raise
            image, cell = int(images[refused[0]]), int(cells[refused[0]])
            raise LogitsError(image, *divmod(cell, self.board.width)) from None
        self.board.put(images, cells, codes, logprobs)


def _overflows(logits: Tensor, uncond: Tensor, guidance: float) -> bool:
    """Whether guidance makes finite logits infinite, as `ops.sample_logits` computes them."""
    finite = logits.isfinite() & uncond.isfinite()
    guided = uncond.double() + guidance * (logits.double() - uncond.double())
    return not guided[finite].isfinite().all()
