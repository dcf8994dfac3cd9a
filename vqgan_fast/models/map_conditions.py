"""Conditions with a place for each code: codes of maps, and coordinates (Section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantizers.checks import check_integer, check_tensor
from .conditions import Condition
from .vqgan import VQGAN


class CodesCondition(Condition):
    """The codes that a VQGAN gives a map of the picture: labels, depth, edges, a smaller picture.

    Args:
        vqgan: a second one, or the first stage itself; as many pixels a code as that.
        maps: what the maps are, a JSON-able dict for whoever makes them; not read here.
        folder: where beside config.json the VQGAN is saved; None says that it is the first stage.

    Raises:
        ValueError: a residual VQGAN.
    """

    num_grids = 1

    def __init__(
        self, vqgan: VQGAN, maps: Mapping[str, Any], folder: str | None = "condition"
    ) -> None:
        super().__init__()
        if vqgan.quantize.codes_per_latent != 1:
            raise ValueError(
                "the VQGAN of a condition must have one code for each latent, got a quantiser with "
                f"{vqgan.quantize.codes_per_latent}"
            )
        self.vqgan = vqgan
        self.maps = dict(maps)
        self.folder = folder
        self.vocab_size = vqgan.quantize.codebook_size
        self.config = {"name": "codes", "maps": self.maps, "folder": folder}

    @torch.no_grad()
    def forward(
        self,
        batch_size: int,
        device: torch.device | str,
        condition_input: Tensor | None = None,
    ) -> Tensor:
        """(batch_size, h, w) int64 of maps (batch_size, C, f h, f w) as the VQGAN takes them."""
        channels = self.vqgan.config["in_channels"]
        expected = f"maps ({batch_size}, {channels}, height, width)"
        if condition_input is None:
            raise ValueError(f"condition_input must be {expected}, got None")
        check_tensor("condition_input", condition_input)
        shape = tuple(condition_input.shape)
        if len(shape) != 4 or shape[:2] != (batch_size, channels):
            raise ValueError(f"condition_input must be {expected}, got {shape}")
        device = torch.device(device)
        # A map's codes must not depend on how the transformer is trained.
        with torch.autocast(device.type, enabled=False):
            return self.vqgan.encode_indices(condition_input.to(device))


class CoordinateCondition(Condition):
    """Where in its picture each code lies, for pictures that are aligned (the paper's faces).

    The token of a cell is round(n_tokens * the mean coordinate of its pixels), a pixel's coordinate
    being its raster position as a share of all pixels of its picture.

    Args:
        n_tokens: how many tokens there are.
        factor: f, the pixels of a code.
    """

    num_grids = 1

    def __init__(self, n_tokens: int = 1024, factor: int = 16) -> None:
        super().__init__()
        check_integer("n_tokens", n_tokens)
        check_integer("factor", factor)
        self.n_tokens, self.factor = n_tokens, factor
        self.vocab_size = n_tokens
        self.config = {"name": "coordinates", "n_tokens": n_tokens, "factor": factor}

    def forward(
        self,
        batch_size: int,
        device: torch.device | str,
        condition_input: Tensor | None = None,
    ) -> Tensor:
        """(batch_size, h, w) int64 of coordinates (batch_size, 1, f h, f w) in [0, 1).

        Raises:
            TypeError: no tensor.
            ValueError: no coordinates, or another shape.
        """
        expected = f"coordinates ({batch_size}, 1, height, width), multiples of {self.factor}"
        if condition_input is None:
            raise ValueError(f"condition_input must be {expected}, got None")
        check_tensor("condition_input", condition_input)
        shape = tuple(condition_input.shape)
        fits = len(shape) == 4 and shape[:2] == (batch_size, 1)
        if not fits or shape[2] % self.factor or shape[3] % self.factor:
            raise ValueError(f"condition_input must be {expected}, got {shape}")
        means = F.avg_pool2d(condition_input.to(device, torch.float64), self.factor)
        return coordinate_token(means, self.n_tokens)[:, 0]


def coordinate_token(coordinate: Tensor, n_tokens: int) -> Tensor:
    """The token in [0, n_tokens) of each coordinate in [0, 1): round(n_tokens * coordinate).

    The last cell of a huge picture would round to n_tokens: it gets the last token.
    """
    return (n_tokens * coordinate).round().long().clamp_max(n_tokens - 1)
