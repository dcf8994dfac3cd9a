"""What the tests of codes share."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast.models import VQGAN


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    """An f4 model for 32 x 32 pixels, with 16 codes."""
    torch.manual_seed(0)
    return VQGAN(
        codebook_size=16, embed_dim=4, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1,
        attn_resolutions=(), resolution=32, z_channels=8,
    ).eval()  # fmt: skip
