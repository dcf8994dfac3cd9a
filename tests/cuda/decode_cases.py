"""What the tests of the decode ops share, emulated and on a GPU."""

from __future__ import annotations

import torch

from vqgan_fast import ops
from vqgan_fast.models.gpt import GPT

DTYPES = ("float32", "bfloat16", "int8")  # in the order of vqgan_fast::WeightType
NUM_LAYERS, HEADS, HEAD_DIM = 2, 2, 24
WIDTH = HEADS * HEAD_DIM


def small_layers(dtype):
    """Packed layers of random weights."""
    gpt = GPT(5, 12, n_layer=NUM_LAYERS, n_head=HEADS, n_embd=WIDTH)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return ops.pack_layers(gpt.requires_grad_(False).blocks, dtype)


def window_case(dtype):
    """The arguments of decode_layers: three rows, two of them of one slot."""
    caches = torch.randn(2, NUM_LAYERS, 2, HEADS, 12, HEAD_DIM).unbind()
    where = [torch.tensor(numbers) for numbers in ([1, 0, 1], [3, 11, 4], [5, 12, 5])]
    return torch.randn(3, WIDTH), small_layers(dtype), *caches, *where


def grid_case():
    """The arguments of decode_grid_layers: two cells in a ring of three rows."""
    caches = torch.randn(2, NUM_LAYERS, 1, HEADS, 3, 6, HEAD_DIM).unbind()
    where = [torch.tensor(numbers) for numbers in ([0, 0], [4, 5], [3, 0])]
    angles, window = torch.randn(2, HEAD_DIM // 2), (5, 2, 2, 1)
    tables = (angles.cos(), angles.sin())
    return torch.randn(2, WIDTH), small_layers("float32"), *caches, *where, *tables, *window
