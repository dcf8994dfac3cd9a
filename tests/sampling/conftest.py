"""Models of 16 columns gain nothing from threads, and lose a lot on a busy machine."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CODEBOOK_SIZE, TOKEN, tiny_gpt

from vqgan_fast.models import VQGAN, LatentTransformer, SOSCondition


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """Here all models are that small."""


@pytest.fixture(scope="module")
def model() -> LatentTransformer:
    """An f2 model whose vocabulary (24) is larger than its codebook, with wild weights."""
    torch.manual_seed(0)
    vqgan = VQGAN(
        codebook_size=CODEBOOK_SIZE,
        embed_dim=8,
        ch=32,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        resolution=8,
        z_channels=16,
    ).double()
    with torch.no_grad():
        vqgan.quantize.embedding.weight.normal_()
        vqgan.decoder.conv_out.weight.mul_(8)
    return LatentTransformer(vqgan, SOSCondition(TOKEN), tiny_gpt(block_size=31)).eval()
