"""What the codes of a picture cost under a transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import LatentTransformer


@torch.inference_mode()
def nll_per_code(model: LatentTransformer, codes: Tensor, batch_size: int = 16) -> float:
    """Mean negative log-likelihood in nats of codes (B, h, w), each given those before it."""
    total = 0.0
    for part in codes.split(batch_size):
        logits, target = model(part)
        total += float(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"))
    return total / codes.numel()
