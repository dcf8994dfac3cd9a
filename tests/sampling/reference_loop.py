"""The reference's sliding window in plain torch: every cell forwards its whole window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqgan_fast.sampling.draw import DrawRule

WRONG = 1  # stands at the cells that are not drawn yet: the mask must hide it


@torch.no_grad()
def reference_draw(
    peer_gpt: nn.Module,
    cond: Tensor,
    codes: Tensor,
    cell: tuple[int, int],
    window: int,
    rule: DrawRule,
    seeds: Tensor,
) -> Tensor:
    """The code (B,) at a cell; `peer_gpt` is the reference's class, which gives (logits, loss)."""
    (row, column), (height, width) = cell, codes.shape[1:]
    top = min(max(row - window // 2, 0), height - window)
    left = min(max(column - window // 2, 0), width - window)
    rows, columns = slice(top, top + window), slice(left, left + window)
    prefix = cond[:, rows, columns].flatten(1) if cond.ndim == 3 else cond
    sequence = torch.cat([prefix, codes[:, rows, columns].flatten(1)], 1)[:, :-1]
    window_logits = peer_gpt(sequence)[0][:, -(window**2) :]
    logits = window_logits[:, window * (row - top) + column - left].float()
    return rule.draw(logits, seeds, torch.full_like(seeds, row * width + column))[0]


def reference_codes(
    peer_gpt: nn.Module,
    cond: Tensor,
    grid: tuple[int, int],
    window: int,
    rule: DrawRule,
    seeds: Tensor,
) -> Tensor:
    """Codes (B, H, W), drawn in raster order."""
    codes = torch.full((len(cond), *grid), WRONG)
    for row in range(grid[0]):
        for column in range(grid[1]):
            drawn = reference_draw(peer_gpt, cond, codes, (row, column), window, rule, seeds)
            codes[:, row, column] = drawn
    return codes


@torch.no_grad()
def follows_the_reference(
    peer_gpt: nn.Module, cond: Tensor, codes: Tensor, window: int, batch: int = 32
) -> Tensor:
    """Whether each greedy code (H, W) is the reference's, given the codes before it.

    If all are, then by induction the reference draws these codes. Windows go through the model many
    at a time, with wrong codes from the cell on.

    Args:
        peer_gpt: as for reference_draw.
        cond: (1, T) or (1, H, W).
        codes: (1, H, W).
    """
    height, width = codes.shape[1:]
    sequences, places = [], []
    for row in range(height):
        for column in range(width):
            top = min(max(row - window // 2, 0), height - window)
            left = min(max(column - window // 2, 0), width - window)
            rows, columns = slice(top, top + window), slice(left, left + window)
            place = window * (row - top) + column - left
            shown = codes[0, rows, columns].flatten().clone()
            shown[place:] = WRONG
            prefix = cond[0, rows, columns].flatten() if cond.ndim == 3 else cond[0]
            sequences.append(torch.cat([prefix, shown])[:-1])
            places.append(len(prefix) - 1 + place)
    drawn = []
    for first in range(0, len(places), batch):
        logits = peer_gpt(torch.stack(sequences[first : first + batch]))[0]
        where = torch.tensor(places[first : first + batch])
        drawn.append(logits[torch.arange(len(where)), where].argmax(-1))
    return torch.cat(drawn).view(height, width) == codes[0]
