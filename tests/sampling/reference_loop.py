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
    logits = window_logits[:, window * (row - top) + column - left]
    return rule.draw(logits, seeds, row * width + column)


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


def up_to(codes: Tensor, cell: tuple[int, int]) -> Tensor:
    """The codes before a cell in raster order, and wrong ones from there on."""
    known = cell[0] * codes.shape[2] + cell[1]
    flat = codes.flatten(1).clone()
    flat[:, known:] = WRONG
    return flat.view_as(codes)
