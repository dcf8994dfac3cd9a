"""Colours as codes: the f1 of the paper's comparison of vocabularies (Section 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..quantizers import QuantizerInfo, VectorQuantizer, k_means
from .pretrained import Pretrained


class ColourCodes(nn.Module, Pretrained):
    """A first stage without a network: each pixel's code is the nearest of K colours.

    It has what a transformer's training and sampling ask of a VQGAN, with one code for each pixel.

    Args:
        codebook_size: K.
        resolution: side of the pictures that it is used for; nothing here depends on it.
    """

    downsampling_factor = 1

    def __init__(self, codebook_size: int = 512, resolution: int = 16) -> None:
        super().__init__()
        self.config = {"codebook_size": codebook_size, "resolution": resolution}
        self.quantize = VectorQuantizer(codebook_size, 3)

    @classmethod
    def fit(
        cls, pixels: Tensor, codebook_size: int, resolution: int = 16, seed: int = 0
    ) -> ColourCodes:
        """The colours that k-means finds in pixels (N, 3) in [-1, 1].

        Raises:
            ValueError: fewer than codebook_size different ones.
        """
        model = cls(codebook_size, resolution)
        with torch.no_grad():
            model.quantize.embedding.weight.copy_(k_means(pixels, codebook_size, seed=seed))
        return model.eval()

    def encode_indices(self, x: Tensor) -> Tensor:
        """Codes (B, H, W) int64 of images (B, 3, H, W)."""
        return self.quantize.encode(x)

    def decode_indices(self, indices: Tensor) -> Tensor:
        """Images (B, 3, H, W) of codes (B, H, W); ValueError for one out of range."""
        return self.quantize.lookup(indices)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Images in the nearest colours, the quantiser's loss, QuantizerInfo."""
        return self.quantize(x)
