"""Augmented crops: a score that sees many views of a picture cannot be met by a pattern of pixels
that only one of them has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantizers.checks import check_integer


@dataclass(frozen=True)
class RandomCrops:
    """Square crops of random size and place, some mirrored, all resized to one size.

    Attributes:
        number: crops of each picture.
        size: side of the results in pixels, such as 224 for CLIP.
        smallest: side of the smallest crop as a share of the picture's shorter side, in (0, 1].
        flip: mirror each crop with probability one half.
        noise: each crop gets Gaussian noise of a standard deviation drawn from [0, noise].
    """

    number: int = 16
    size: int = 224
    smallest: float = 0.5
    flip: bool = True
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_integer("number", self.number)
        check_integer("size", self.size)
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest must lie in (0, 1], got {self.smallest}")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(number * B, C, size, size) crops of images (B, C, H, W), differentiable in them.

        Args:
            generator: on the CPU, whatever the images' device: the crops are the same everywhere.
        """
        height, width = images.shape[2:]
        largest = min(height, width)
        crops = []
        for _ in range(self.number):
            share, down, right, mirror, level = torch.rand(5, generator=generator).tolist()
            side = max(1, round(largest * (self.smallest + (1 - self.smallest) * share)))
            top, left = round(down * (height - side)), round(right * (width - side))
            crop = images[:, :, top : top + side, left : left + side]
            if side != self.size:
                crop = F.interpolate(crop, (self.size, self.size), mode="bilinear", antialias=True)
            if self.flip and mirror < 0.5:
                crop = crop.flip(-1)
            if self.noise:
                noise = torch.randn(crop.shape, generator=generator, dtype=torch.float32)
                crop = crop + self.noise * level * noise.to(crop)
            crops.append(crop)
        return torch.cat(crops)
