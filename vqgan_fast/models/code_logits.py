"""The logits of every code of a picture at once: what training and evaluation need."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conditions import Tokens, token_sequence
from .orderings import ROW_MAJOR, ordered_cells, ranks_of_cells
from .pixel_snail import PixelSNAIL
from .window_gpt import WindowGPT


def code_logits(transformer: nn.Module, condition: Tokens, codes: Tensor) -> Tensor:
    """Logits (B, h w, V) of each code, given the condition and the codes before it.

    What comes before is a matter of the transformer's `ordering`; the logits stand row by row.

    Args:
        transformer: a GPT, a WindowGPT or a PixelSNAIL, or one wrapped for data-parallel training.
        condition: tokens; a WindowGPT or PixelSNAIL takes (B, 1) or (B, h, w).
        codes: (B, h, w), or (B, h w) for a GPT that reads row by row.

    Raises:
        ValueError: codes (B, h w) for a GPT that reads them in another order.
    """
    model = getattr(transformer, "module", transformer)
    if isinstance(model, WindowGPT | PixelSNAIL):
        return transformer(codes, condition)
    in_order = codes.flatten(1)
    if model.ordering != ROW_MAJOR:
        if codes.ndim != 3:
            raise ValueError(
                f"codes must be (B, h, w) for a transformer that reads them in {model.ordering} "
                f"order, got {tuple(codes.shape)}"
            )
        cells = ordered_cells(model.ordering, *codes.shape[1:]).to(codes.device)
        in_order = in_order[:, cells]
    # The last code predicts nothing, and rows before the condition's last token predict the
    # condition.
    condition = token_sequence(condition)
    sequence = torch.cat([condition, in_order], dim=1)[:, :-1]
    logits = transformer(sequence, logits_from=condition.shape[1] - 1)
    if model.ordering == ROW_MAJOR:
        return logits
    return logits[:, ranks_of_cells(model.ordering, *codes.shape[1:]).to(codes.device)]
