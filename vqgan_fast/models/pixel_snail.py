"""PixelSNAIL, the convolutional model of codes that the paper compares its transformer with.

Chen, Mishra, Rohaninejad, Abbeel, "PixelSNAIL: an improved autoregressive generative model", ICML
2018; it is the prior of VQ-VAE-2. Gated residual blocks of causal convolutions see what is near,
causal attention what is far. Two things differ from that paper: keys and values stand one cell
later behind a learned first one, so that the plain causal mask serves, and there is no weight
normalisation (each block starts as the identity instead).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.checks import check_indices, check_integer, check_tensor
from .gpt import check_dropout, decay_groups, initialize
from .pretrained import Pretrained
from .window_gpt import check_cell_condition


class CausalConv(nn.Module):
    """A convolution that sees the rows above and, in its own row, the cells to the left.

    (B, C, H, W) -> (B, C', H, W). With r = kernel_size // 2, a cell sees the r rows above it, r
    cells to either side, and r cells to its left; and itself, unless `strict`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, strict: bool = False
    ) -> None:
        super().__init__()
        self.reach = kernel_size // 2
        own = self.reach if strict else self.reach + 1
        self.above = nn.Conv2d(in_channels, out_channels, (self.reach, 2 * self.reach + 1))
        self.left = nn.Conv2d(in_channels, out_channels, (1, own), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        r = self.reach
        # Each gives a row or column more at the end, which has seen what it must not.
        above = self.above(F.pad(x, (r, r, r, 0)))[:, :, :height]
        return above + self.left(F.pad(x, (r, 0)))[..., :width]


class GatedResidual(nn.Module):
    """x + a * sigmoid(b) with (a, b) from two causal convolutions; starts as the identity."""

    def __init__(self, channels: int, kernel_size: int, dropout: float, aux: bool = False) -> None:
        super().__init__()
        self.first = CausalConv(channels, channels, kernel_size)
        self.aux = nn.Conv2d(channels, channels, 1) if aux else None
        self.drop = nn.Dropout(dropout)
        self.second = CausalConv(channels, 2 * channels, kernel_size)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, aux: Tensor | None = None) -> Tensor:
        h = self.first(F.elu(x))
        if self.aux is not None:
            h = h + self.aux(F.elu(aux))
        return x + F.glu(self.second(self.drop(F.elu(h))), dim=1)


class GridAttention(nn.Module):
    """Attention of each cell to the cells before it, row by row; (B, C, H, W) -> the same.

    Queries are made of the features and the place, keys and values of the embedded codes as well.
    """

    def __init__(self, channels: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(channels + 2, channels)
        self.key = nn.Linear(2 * channels + 2, channels)
        self.value = nn.Linear(2 * channels + 2, channels)
        self.first = nn.Parameter(torch.zeros(2 * channels + 2))
        self.n_head, self.dropout = n_head, dropout

    def forward(self, h: Tensor, embedded: Tensor, place: Tensor) -> Tensor:
        rows = torch.cat([h, place], dim=1).flatten(2).mT
        seen = torch.cat([h, embedded, place], dim=1).flatten(2).mT
        # One cell later, so that cell i attends 0 ... i - 1: its own code is what is predicted.
        seen = torch.cat([self.first.expand(len(h), 1, -1), seen[:, :-1]], dim=1)
        q, k, v = (
            project(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for project, x in ((self.query, rows), (self.key, seen), (self.value, seen))
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return y.transpose(1, 2).flatten(2).mT.reshape(h.shape)


class Block(nn.Module):
    """Gated residual blocks, attention, and a residual block that takes in what it found."""

    def __init__(
        self, channels: int, n_head: int, n_res: int, kernel_size: int, resid: float, attn: float
    ) -> None:
        super().__init__()
        self.residual = nn.ModuleList(
            GatedResidual(channels, kernel_size, resid) for _ in range(n_res)
        )
        self.attention = GridAttention(channels, n_head, attn)
        self.out = GatedResidual(channels, 1 + 2 * (kernel_size // 4), resid, aux=True)

    def forward(self, h: Tensor, embedded: Tensor, place: Tensor) -> Tensor:
        for block in self.residual:
            h = block(h)
        return self.out(h, self.attention(h, embedded, place))


class PixelSNAIL(nn.Module, Pretrained):
    """A causal convolutional network with attention over grids of codes, row by row.

    Args:
        vocab_size: number of tokens: codes, and condition tokens in the same table.
        n_layer, n_head, n_embd: blocks, attention heads, channels (a multiple of n_head).
        n_res: gated residual blocks before the attention of each block.
        kernel_size: odd, at least 5.
        embd_pdrop, resid_pdrop, attn_pdrop: dropout after the embedding, in the residual blocks, on
            attention weights.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        vocab_size: int,
        n_layer: int = 4,
        n_head: int = 8,
        n_embd: int = 256,
        n_res: int = 2,
        kernel_size: int = 5,
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
            "n_res": n_res,
            "kernel_size": kernel_size,
            "embd_pdrop": embd_pdrop,
            "resid_pdrop": resid_pdrop,
            "attn_pdrop": attn_pdrop,
        }
        _check_config(self.config)
        self.vocab_size = vocab_size
        self.n_unmasked = 0  # no token of the condition stands in a sequence
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.cond_proj = nn.Linear(n_embd, n_embd, bias=False)
        self.drop = nn.Dropout(embd_pdrop)
        self.first = CausalConv(n_embd, n_embd, kernel_size, strict=True)
        self.blocks = nn.ModuleList(
            Block(n_embd, n_head, n_res, kernel_size, resid_pdrop, attn_pdrop)
            for _ in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.apply(initialize)

    def forward(self, codes: Tensor, cond: Tensor) -> Tensor:
        """Logits of every code of a grid, given the codes before it row by row.

        Args:
            codes: (B, h, w) integers in [0, vocab_size); the last one predicts nothing.
            cond: (B, 1) tokens, one for the whole picture, or (B, h, w), one for each cell.

        Returns:
            (B, h w, vocab_size).

        Raises:
            TypeError: codes or cond are no tensor.
            ValueError: another shape or dtype, a token out of range (checked on the CPU).
        """
        return self.head(self.features(codes, cond))

    def features(self, codes: Tensor, cond: Tensor) -> Tensor:
        """What `head` makes logits of, (B, h w, n_embd); arguments and errors as `forward`."""
        check_tensor("codes", codes)
        if codes.ndim != 3 or codes.numel() == 0:
            raise ValueError(f"codes must be (B, h, w), none of them 0, got {tuple(codes.shape)}")
        check_cell_condition(cond, codes.shape, self.vocab_size, type(self).__name__)
        # The last code is read by nobody, and while sampling it need not be there yet.
        readable = codes.flatten(1)[:, :-1]
        check_indices("codes", readable, self.vocab_size)
        codes = F.pad(readable, (0, 1)).view_as(codes)
        embedded = self.drop(self.tok_emb(codes)).movedim(-1, 1)
        told = self.cond_proj(self.tok_emb(cond))
        told = told.movedim(-1, 1) if cond.ndim == 3 else told.mT[..., None]
        h = self.first(embedded) + told
        place = places(h)
        for block in self.blocks:
            h = block(h, embedded, place)
        return self.ln_f(F.elu(h).flatten(2).mT)

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: only the weights of Linear layers decay."""
        return decay_groups(self, weight_decay)


def places(h: Tensor) -> Tensor:
    """(B, 2, H, W) of h (B, C, H, W): each cell's row and column as shares of the grid, - 1/2."""
    height, width = h.shape[2:]
    rows = torch.arange(height, device=h.device, dtype=h.dtype) / height - 0.5
    columns = torch.arange(width, device=h.device, dtype=h.dtype) / width - 0.5
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(len(h), -1, -1, -1)


def _check_config(config: dict[str, Any]) -> None:
    for name in ("vocab_size", "n_layer", "n_head", "n_embd"):
        check_integer(name, config[name])
    check_integer("n_res", config["n_res"], minimum=0)
    if config["n_embd"] % config["n_head"]:
        raise ValueError(
            f"n_embd must be a multiple of n_head = {config['n_head']}, got {config['n_embd']}"
        )
    check_integer("kernel_size", config["kernel_size"])
    if config["kernel_size"] < 5 or config["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 5, got {config['kernel_size']}")
    check_dropout(config)
