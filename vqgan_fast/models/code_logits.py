"""The logits of every code of a picture at once: what training and evaluation need."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conditions import Tokens, token_sequence
from .window_gpt import WindowGPT


def code_logits(transformer: nn.Module, condition: Tokens, codes: Tensor) -> Tensor:
    """Logits (B, h w, V) of each code, given the condition and the codes before it.

    Args:
        transformer: a GPT or a WindowGPT, or one wrapped for data-parallel training.
        condition: tokens; a WindowGPT takes (B, 1) or (B, h, w).
        codes: (B, h, w).
    """
    if isinstance(getattr(transformer, "module", transformer), WindowGPT):
        return transformer(codes, condition)
    # The last code predicts nothing, and rows before the condition's last token predict the
    # condition.
    condition = token_sequence(condition)
    sequence = torch.cat([condition, codes.flatten(1)], dim=1)[:, :-1]
    return transformer(sequence, logits_from=condition.shape[1] - 1)
