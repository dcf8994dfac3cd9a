"""Small transformers whose logits depend strongly on every token and position.

Their weights are fp64 so that the definitions that tests compare with have no rounding to speak of.
Sampling runs in fp32: the logits differ by 1e-6 or so from those, which is too little to flip one
of a few thousand draws.
"""

from __future__ import annotations

import torch

from vqgan_fast.models import GPT, WindowGPT

VOCAB_SIZE = 24
CODEBOOK_SIZE, TOKEN = 20, 21  # of the model in conftest.py: its codes, and its condition


def tiny_gpt(
    block_size: int, *, n_head: int = 2, n_unmasked: int = 0, dropout: float = 0.0, seed: int = 0
) -> GPT:
    """A GPT in eval mode; the usual initialisation has no positions and almost flat logits."""
    gpt = GPT(
        VOCAB_SIZE,
        block_size,
        n_layer=2,
        n_head=n_head,
        n_embd=8 * n_head,
        n_unmasked=n_unmasked,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
    ).double()
    return randomized(gpt, seed)


def tiny_window_gpt(*, reach: int = 3, seed: int = 0) -> WindowGPT:
    """The native counterpart."""
    gpt = WindowGPT(VOCAB_SIZE, n_layer=2, n_head=2, n_embd=16, reach=reach).double()
    return randomized(gpt, seed)


def randomized(gpt: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Wild weights instead of the usual initialisation, in eval mode."""
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


def assert_highest_logits(
    model: torch.nn.Module, cond: torch.Tensor, codes: torch.Tensor, logprobs: torch.Tensor
) -> None:
    """Codes (B, h, w) are the most likely given those before them, by the logits of all at once."""
    with torch.no_grad():
        logits = model(codes, cond)
    assert torch.equal(logits.argmax(-1).view_as(codes), codes)
    expected = logits.log_softmax(-1).gather(-1, codes.flatten(1)[..., None]).view_as(logprobs)
    torch.testing.assert_close(logprobs, expected.float(), atol=1e-5, rtol=0)
