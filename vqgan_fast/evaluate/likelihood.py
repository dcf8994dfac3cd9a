"""What the codes of a picture cost under a transformer."""

from __future__ import annotations

from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import LatentTransformer
from ..models.code_logits import code_logits
from ..models.conditions import Tokens, map_tokens


@torch.inference_mode()
def nll_per_code(
    model: LatentTransformer,
    codes: Tensor,
    batch_size: int = 16,
    condition: Tokens | None = None,
) -> float:
    """Mean negative log-likelihood in nats of codes (N, h, w), each given those before it.

    Args:
        condition: the tokens of the N pictures; None asks the model's own condition, as works
            without any input.
    """
    if condition is None:
        condition = model.cond_stage_model(len(codes), codes.device)
    total = 0.0
    for rows in torch.arange(len(codes)).split(batch_size):
        target = codes[rows]
        logits = code_logits(model.transformer, map_tokens(itemgetter(rows), condition), target)
        total += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
    return total / codes.numel()
