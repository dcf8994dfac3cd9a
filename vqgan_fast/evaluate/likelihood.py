"""What the codes of a picture cost under a transformer."""

from __future__ import annotations

from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import LatentTransformer
from ..models.code_logits import code_logits
from ..models.conditions import Tokens, map_tokens
from ..models.evaluating import evaluating


@torch.inference_mode()
def nll_per_code(
    model: LatentTransformer,
    codes: Tensor,
    batch_size: int = 16,
    condition: Tokens | None = None,
) -> float:
    """Mean negative log-likelihood in nats of codes (N, h, w), each given those before it.

    Args:
        model: in any mode and dtype; it is put in eval mode meanwhile, and the likelihoods of its
            logits are taken in fp32.
        condition: the tokens of the N pictures; None asks the model's own condition, as works
            without any input.

    Raises:
        ValueError: a picture has more codes than the transformer has positions for.
    """
    if condition is None:
        condition = model.cond_stage_model(len(codes), codes.device)
    _check_positions(model, codes, condition)
    total = 0.0
    with evaluating(model):
        for rows in torch.arange(len(codes)).split(batch_size):
            target = codes[rows]
            logits = code_logits(model.transformer, map_tokens(itemgetter(rows), condition), target)
            logits = logits.flatten(0, 1).float()
            total += float(F.cross_entropy(logits, target.flatten(), reduction="sum"))
    return total / codes.numel()


def _check_positions(model: LatentTransformer, codes: Tensor, condition: Tokens) -> None:
    """A WindowGPT takes grids of any size; a GPT has learned so many positions and no more."""
    parts = condition if isinstance(condition, tuple) else (condition,)
    before = sum(part[0].numel() for part in parts)
    room = getattr(model.transformer, "block_size", None)
    if room is not None and before + codes[0].numel() - 1 > room:
        height, width = codes.shape[1:]
        grids = sum(part.ndim == 3 for part in parts)  # as many tokens as there are codes
        fixed = sum(part[0].numel() for part in parts if part.ndim != 3)
        most = (room + 1 - fixed) // (1 + grids)
        raise ValueError(
            f"pictures must have at most {most} codes, what the transformer was "
            f"trained on, got {height} x {width}: take pictures of that size (evaluate --size)"
        )
