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

    If all are, then by induction the reference draws these codes. A window's logits at one cell do
    not depend on the codes from there on, so that each window goes through the model once for all
    its cells, many windows at a time.

    Args:
        peer_gpt: as for reference_draw.
        cond: (1, T) or (1, H, W).
        codes: (1, H, W).
    """
    height, width = codes.shape[1:]
    cells_of: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row in range(height):
        for column in range(width):
            top = min(max(row - window // 2, 0), height - window)
            left = min(max(column - window // 2, 0), width - window)
            cells_of.setdefault((top, left), []).append((row, column))
    same = torch.zeros(height, width, dtype=torch.bool)
    corners = list(cells_of)
    for first in range(0, len(corners), batch):
        sequences, places = [], []
        for number, (top, left) in enumerate(corners[first : first + batch]):
            rows, columns = slice(top, top + window), slice(left, left + window)
            prefix = cond[0, rows, columns].flatten() if cond.ndim == 3 else cond[0]
            sequences.append(torch.cat([prefix, codes[0, rows, columns].flatten()]))
            for row, column in cells_of[top, left]:
                place = len(prefix) - 1 + window * (row - top) + column - left
                places.append((number, place, row, column))
        number, place, row, column = torch.tensor(places).T
        logits = peer_gpt(torch.stack(sequences)[:, : place.max() + 1])[0]
        same[row, column] = logits[number, place].argmax(-1) == codes[0, row, column]
    return same
