"""The smallest VQGAN that has every part: f2, so that 8 x 8 pixels are 4 x 4 codes."""

from __future__ import annotations

import math
from typing import Any

import torch

from vqgan_fast.models import VQGAN

CONFIG = {
    "codebook_size": 16, "embed_dim": 4, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1,
    "attn_resolutions": [], "resolution": 8, "z_channels": 8,
}  # fmt: skip


def tiny_vqgan(codebook_size: int = 16, channels: int = 3, **changes: Any) -> VQGAN:
    """In eval mode, of given weights; its codes are latents of noise, so that pictures differ."""
    torch.manual_seed(channels)
    sizes = {"codebook_size": codebook_size, "in_channels": channels, "out_ch": channels}
    model = VQGAN(**{**CONFIG, **sizes, **changes}).eval()
    side = model.downsampling_factor * (math.isqrt(codebook_size - 1) + 1)
    with torch.no_grad():
        latents = model.quant_conv(model.encoder(torch.randn(1, channels, side, side)))
        codes = latents.flatten(2)[0].T[:codebook_size]
        model.quantize.embedding.weight.copy_(codes)
    return model
