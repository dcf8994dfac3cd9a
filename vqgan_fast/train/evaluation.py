"""Figures on held-out pictures and codes, computed by all ranks together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_fast.data import Segmentation
from vqgan_fast.losses import pixel_accuracy, psnr_of_each
from vqgan_fast.models import GPT, VQGAN, WindowGPT
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.conditions import Tokens, map_tokens
from vqgan_fast.models.evaluating import evaluating as in_eval_mode
from vqgan_fast.quantizers import usage

from .distributed import Ranks
from .training_crops import TrainingCrops


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradients, and the training's random state as before: quantisers may draw."""
    devices = [device] if device.type == "cuda" else []
    with in_eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices):
        yield


def reconstruction_figures(
    model: VQGAN, crops: TrainingCrops, batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """How well a VQGAN reconstructs held-out crops.

    Args:
        crops: with `held_out` crops, the same on every rank.

    Returns:
        val_codebook_usage (share of codes that these crops use), and val_l1 (mean absolute error of
        values in [-1, 1]) and val_psnr (dB, at most 100, mean over the crops), or of labels
        val_accuracy (share of the pixels).
    """
    labels = isinstance(crops.kind, Segmentation)
    sums = torch.zeros(3, device=ranks.device)
    counts = torch.zeros(model.quantize.num_codes, dtype=torch.int64, device=ranks.device)
    with evaluating(model, ranks.device):
        for part in _own_share(crops.held_out, batch_size, ranks):
            x = crops.model_input(part, ranks.device)
            x_hat, _, info = model(x)
            if labels:
                figures = [pixel_accuracy(x, x_hat) * len(x), sums.new_zeros(())]
            else:
                error = x_hat.float().clamp(-1, 1) - x
                psnr = psnr_of_each((error / 2).square().mean((1, 2, 3)))
                figures = [error.abs().mean((1, 2, 3)).sum(), psnr.sum()]
            sums += torch.stack([*figures, sums.new_tensor(len(x))])
            counts += info.counts
    first, psnr, number = ranks.sum(sums).tolist()
    shared = {"val_codebook_usage": float(usage(ranks.sum(counts)))}
    if labels:
        return {"val_accuracy": first / number, **shared}
    return {"val_l1": first / number, "val_psnr": psnr / number, **shared}


@torch.no_grad()
def held_out_nll(
    gpt: GPT | WindowGPT, condition: Tokens, codes: Tensor, batch_size: int, ranks: Ranks
) -> float:
    """Negative log-likelihood per code, in nats.

    Args:
        condition: the tokens of the V pictures.
        codes: (V, h, w) int64; both are equal on all ranks.
    """
    sums = torch.zeros(2, device=ranks.device)
    # As many passes on each rank, as ranks with sharded weights wait for each other in every one.
    rounds = -(-len(codes) // ranks.world_size)
    places = ranks.rank + ranks.world_size * torch.arange(rounds, device=ranks.device)
    with in_eval_mode(gpt):
        for own in places.split(batch_size):
            counted, own = own < len(codes), own.clamp_max(len(codes) - 1)
            target = codes[own]
            logits = code_logits(gpt, map_tokens(itemgetter(own), condition), target)
            nll = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
            nll = nll.view(len(own), -1)[counted]
            sums += torch.stack([nll.sum(), sums.new_tensor(nll.numel())])
    total, number = ranks.sum(sums).tolist()
    return total / number


@torch.no_grad()
def predictions(gpt: GPT | WindowGPT, condition: Tokens, codes: Tensor) -> Tensor:
    """The likeliest code (B, h, w) at each place, given the true codes (B, h, w) before it."""
    with in_eval_mode(gpt):
        return code_logits(gpt, condition, codes).argmax(-1).view_as(codes)


def _own_share(rows: Tensor, batch_size: int, ranks: Ranks) -> list[Tensor]:
    own = rows[ranks.rank :: ranks.world_size]
    return list(own.split(batch_size)) if len(own) else []
