"""Small transformers whose logits depend strongly on every token and position, in fp64.

fp64 because the tests below compare codes: rounding then differs between two ways to the same
logits by 1e-15 or so, too little to flip a draw.
"""

from __future__ import annotations

import torch

from vqgan_fast.models import GPT

VOCAB_SIZE = 24


def tiny_gpt(block_size: int, *, n_unmasked: int = 0, dropout: float = 0.0, seed: int = 0) -> GPT:
    """A GPT in eval mode; the usual initialisation has no positions and almost flat logits."""
    gpt = GPT(
        VOCAB_SIZE,
        block_size,
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_unmasked=n_unmasked,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if "ln" not in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(0.4 * noise)
    return gpt.eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random tokens of the tiny transformers' vocabulary."""
    return torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))
