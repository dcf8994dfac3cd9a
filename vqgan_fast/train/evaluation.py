"""Figures on held-out pictures and codes, computed by all ranks together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_fast.data import to_model_range
from vqgan_fast.models import GPT, VQGAN, WindowGPT
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.quantizers import usage

from .distributed import Ranks


@torch.no_grad()
def reconstruction_figures(
    model: VQGAN, images: Tensor, batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """How well a VQGAN reconstructs pictures it does not train on.

    Args:
        images: uint8 (V, 3, S, S), the same on every rank.

    Returns:
        val_l1 (mean absolute error of values in [-1, 1]), val_psnr (dB, mean over the pictures),
        val_codebook_usage (share of codes that these pictures use).
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, device=ranks.device)
    counts = torch.zeros(model.quantize.codebook_size, dtype=torch.int64, device=ranks.device)
    for part in _own_share(images, batch_size, ranks):
        x = to_model_range(part, ranks.device)
        x_hat, _, info = model(x)
        error = x_hat.float().clamp(-1, 1) - x
        psnr = 10 * torch.log10(4 / error.square().mean((1, 2, 3)).clamp_min(1e-10))
        sums += torch.stack(
            [error.abs().mean((1, 2, 3)).sum(), psnr.sum(), sums.new_tensor(len(x))]
        )
        counts += info.counts
    model.train(was_training)
    l1, psnr, number = ranks.sum(sums).tolist()
    share = float(usage(ranks.sum(counts)))
    return {"val_l1": l1 / number, "val_psnr": psnr / number, "val_codebook_usage": share}


@torch.no_grad()
def held_out_nll(
    gpt: GPT | WindowGPT, condition: nn.Module, codes: Tensor, batch_size: int, ranks: Ranks
) -> float:
    """Negative log-likelihood per code, in nats; codes (V, h, w) int64 are equal on all ranks."""
    was_training = gpt.training
    gpt.eval()
    sums = torch.zeros(2, device=ranks.device)
    for target in _own_share(codes, batch_size, ranks):
        logits = code_logits(gpt, condition(len(target), target.device), target)
        nll = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="sum")
        sums += torch.stack([nll, sums.new_tensor(target.numel())])
    gpt.train(was_training)
    total, number = ranks.sum(sums).tolist()
    return total / number


@torch.no_grad()
def predictions(gpt: GPT | WindowGPT, condition: nn.Module, codes: Tensor) -> Tensor:
    """The likeliest code (B, h, w) at each place, given the true codes (B, h, w) before it."""
    was_training = gpt.training
    likeliest = code_logits(gpt.eval(), condition(len(codes), codes.device), codes).argmax(-1)
    gpt.train(was_training)
    return likeliest.view_as(codes)


def _own_share(rows: Tensor, batch_size: int, ranks: Ranks) -> list[Tensor]:
    own = rows[ranks.rank :: ranks.world_size]
    return list(own.split(batch_size)) if len(own) else []
