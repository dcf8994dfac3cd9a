"""The native windowed transformer: relative positions in a causal window, for grids of any size.

A GPT with learned absolute positions has to slide its window over a grid larger than the one it was
trained on, and at every slide its keys and values go stale. Here positions are rotations of queries
and keys at the cell's row and column (RoPE; Su et al. 2021, in two dimensions), so that only
differences enter; and each cell attends a window around itself instead of everything before it:

    rows i - r ... i - 1, columns j - r ... j + r - 1, and its own row's cells j - r ... j

with r the reach. A cell's keys and values then never change, and sampling forwards one token for
each code, on grids of any size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.checks import check_indices, check_integer, check_tensor
from .gpt import Block, check_dropout, decay_groups, initialize
from .pretrained import Pretrained

# The slowest rotation turns by 1 in this many cells: a window is about 16 wide.
ROTARY_BASE = 100.0


def rotation_angles(rows: Tensor, columns: Tensor, head_dim: int) -> Tensor:
    """Angles (..., head_dim / 2) fp64 for cells at rows (...) and columns (...).

    The first half of them turns with the row, the second with the column, at head_dim / 4 speeds
    ROTARY_BASE^(-4 k / head_dim).
    """
    speeds = torch.arange(head_dim // 4, device=rows.device, dtype=torch.float64)
    speeds = ROTARY_BASE ** (-4 * speeds / head_dim)
    return torch.cat([rows[..., None] * speeds, columns[..., None] * speeds], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (x[k], x[k + head_dim / 2]) of (..., head_dim) by angles' (..., head_dim / 2)
    cosines and sines."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def window_mask(height: int, width: int, reach: int, device: torch.device | str) -> Tensor:
    """Which cells (columns) each cell (rows) attends: (H W, H W) bool."""
    cells = torch.arange(height * width, device=device)
    row, column = cells // width, cells % width
    above = row[:, None] - row[None, :]  # how far the attended cell lies above
    right = column[None, :] - column[:, None]
    in_rows_above = (above >= 1) & (above <= reach) & (right >= -reach) & (right < reach)
    in_own_row = (above == 0) & (right >= -reach) & (right <= 0)
    return in_rows_above | in_own_row


class WindowAttention(nn.Module):
    """Multi-head attention with rotated queries and keys; (B, T, n_embd) -> (B, T, n_embd)."""

    def __init__(self, n_embd: int, n_head: int, attn_pdrop: float, resid_pdrop: float) -> None:
        super().__init__()
        self.key = nn.Linear(n_embd, n_embd)
        self.query = nn.Linear(n_embd, n_embd)
        self.value = nn.Linear(n_embd, n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.resid_drop = nn.Dropout(resid_pdrop)
        self.attn_pdrop = attn_pdrop
        self.n_head = n_head

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        dropout = self.attn_pdrop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
        return self.resid_drop(self.proj(y.transpose(1, 2).flatten(2)))


class WindowGPT(nn.Module, Pretrained):
    """A decoder-only transformer over grids of codes, causal within a window, without a table of
    positions.

    The input at a cell is the embedding of the code to its left, at column 0 a learned row token
    (the last code of the row above would make the rows wait for each other), plus a projection of
    the embedding of its condition token.

    Args:
        vocab_size: number of tokens: codes, and condition tokens in the same table.
        n_layer, n_head, n_embd: layers, attention heads, width (a multiple of 4 n_head).
        reach: r, how many rows above and columns to the left a cell attends.
        embd_pdrop, resid_pdrop, attn_pdrop: dropout after the embedding, on each branch, on
            attention weights.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        vocab_size: int,
        n_layer: int = 12,
        n_head: int = 8,
        n_embd: int = 256,
        reach: int = 8,
        embd_pdrop: float = 0.0,
        resid_pdrop: float = 0.0,
        attn_pdrop: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_embd": n_embd,
            "reach": reach,
            "embd_pdrop": embd_pdrop,
            "resid_pdrop": resid_pdrop,
            "attn_pdrop": attn_pdrop,
        }
        _check_config(self.config)
        self.vocab_size = vocab_size
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.reach = reach
        self.n_unmasked = 0  # no token of the condition stands in the sequence
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.cond_proj = nn.Linear(n_embd, n_embd, bias=False)
        self.row_token = nn.Parameter(torch.zeros(n_embd))
        self.drop = nn.Dropout(embd_pdrop)
        self.blocks = nn.ModuleList(
            Block(n_embd, resid_pdrop, WindowAttention(n_embd, n_head, attn_pdrop, resid_pdrop))
            for _ in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.apply(initialize)

    def forward(self, codes: Tensor, cond: Tensor) -> Tensor:
        """Logits of every code of a grid, given the codes that its cell's window shows before it.

        Args:
            codes: (B, h, w) integers in [0, vocab_size); the last code of each row is not read.
            cond: (B, 1) tokens, one for the whole picture, or (B, h, w), one for each cell.

        Returns:
            (B, h w, vocab_size).

        Raises:
            TypeError: codes or cond are no tensor.
            ValueError: another shape or dtype, a token out of range (checked on the CPU).
        """
        check_tensor("codes", codes)
        if codes.ndim != 3 or codes.numel() == 0:
            raise ValueError(f"codes must be (B, h, w), none of them 0, got {tuple(codes.shape)}")
        batch, height, width = codes.shape
        check_cell_condition(cond, codes.shape, self.vocab_size, type(self).__name__)
        check_indices("codes", codes[:, :, :-1], self.vocab_size)
        left = self.tok_emb(codes[:, :, :-1])
        first = self.row_token.expand(batch, height, 1, -1)
        x = torch.cat([first, left], dim=2) + self.cond_proj(self.tok_emb(cond)).view(
            batch, *((height, width) if cond.ndim == 3 else (1, 1)), -1
        )
        x = self.drop(x.flatten(1, 2))
        mask = window_mask(height, width, self.reach, codes.device)
        cells = torch.arange(height * width, device=codes.device)
        angles = rotation_angles(cells // width, cells % width, self.n_embd // self.n_head)
        cos, sin = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, mask, cos, sin)
        return self.head(self.ln_f(x))

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: only the weights of Linear layers decay."""
        return decay_groups(self, weight_decay)


def check_cell_condition(
    cond: Tensor, shape: tuple[int, int, int], vocab_size: int, model: str
) -> None:
    """ValueError unless `cond` holds one token for each picture, (B, 1), or cell, shape (B, h, w);
    TypeError if it is no tensor.

    Args:
        model: what errors call the model that takes it.
    """
    check_tensor("cond", cond)
    batch, height, width = shape
    if cond.shape not in ((batch, 1), (batch, height, width)):
        raise ValueError(
            f"cond must be ({batch}, 1) or ({batch}, {height}, {width}) tokens for a {model}, got "
            f"{tuple(cond.shape)}"
        )
    check_indices("cond", cond, vocab_size)


def _check_config(config: dict[str, Any]) -> None:
    for name in ("vocab_size", "n_layer", "n_head", "n_embd", "reach"):
        check_integer(name, config[name])
    if config["n_embd"] % (4 * config["n_head"]):
        raise ValueError(
            f"n_embd must be a multiple of 4 n_head = {4 * config['n_head']} (a quarter of each "
            f"head's pairs turns with the row's angle), got {config['n_embd']}"
        )
    check_dropout(config)
