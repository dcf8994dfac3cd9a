"""The figures of a demo, taken on fixed crops with the finished models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data import to_model_range
from ..evaluate import nll_per_code
from ..models import VQGAN, LatentTransformer
from ..quantizers.metrics import perplexity, usage
from ..report.measures import (
    code_counts,
    mean_colours,
    mean_psnr,
    mean_squared_error,
    psnr,
    unigram_cross_entropy,
)

BATCH = 16


class Encoded(NamedTuple):
    """Crops through stage 1: ``images``, ``reconstructions`` (B, 3, S, S), ``codes`` (B, h, w)."""

    images: Tensor
    reconstructions: Tensor
    codes: Tensor


@torch.inference_mode()
def encode(vqgan: VQGAN, crops: Tensor) -> Encoded:
    """Reconstructions and codes of crops, uint8 (B, 3, S, S)."""
    images = to_model_range(crops)
    outputs = [vqgan(part) for part in images.split(BATCH)]
    return Encoded(
        images,
        torch.cat([x_hat.clamp(-1, 1) for x_hat, _, _ in outputs]),
        torch.cat([info.indices for _, _, info in outputs]),
    )


def measure_stage1(held_out: Encoded, training: Encoded, num_codes: int) -> dict[str, float]:
    """How well stage 1 reconstructs crops that it never saw, and how many codes that takes."""
    colours = mean_colours(held_out.images)
    held_out_psnr = psnr(mean_squared_error(held_out.images, held_out.reconstructions))
    mean_colour_psnr = psnr(mean_squared_error(held_out.images, colours))
    counts = code_counts(held_out.codes, num_codes)
    training_counts = code_counts(training.codes, num_codes)
    return {
        "heldout_psnr": held_out_psnr,
        "mean_colour_psnr": mean_colour_psnr,
        "gain_db": held_out_psnr - mean_colour_psnr,
        "heldout_psnr_mean_of_crops": mean_psnr(held_out.images, held_out.reconstructions),
        "mean_colour_psnr_mean_of_crops": mean_psnr(held_out.images, colours),
        "training_psnr": psnr(mean_squared_error(training.images, training.reconstructions)),
        "codebook_usage_training_crops": float(usage(training_counts)),
        "codebook_usage_heldout": float(usage(counts)),
        "perplexity_training_crops": float(perplexity(training_counts)),
        "perplexity_heldout": float(perplexity(counts)),
        "codes_training": training.codes.numel(),
        "codes_heldout": held_out.codes.numel(),
    }


def measure_stage2(
    model: LatentTransformer, held_out: Encoded, training: Encoded
) -> dict[str, float]:
    """What a held-out code costs, in nats: under the transformer, and under two baselines."""
    num_codes = model.first_stage_model.quantize.codebook_size
    counts = code_counts(training.codes, num_codes)
    nll = nll_per_code(model, held_out.codes, BATCH)
    unigram = unigram_cross_entropy(held_out.codes, counts)
    return {
        "nll_per_code": nll,
        "unigram_cross_entropy": unigram,
        "uniform_cross_entropy": float(torch.tensor(float(num_codes)).log()),
        "nll_gain": unigram - nll,
    }
