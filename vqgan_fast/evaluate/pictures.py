"""Pictures as the paper measures them: the largest centred square, made smaller with antialiasing.

How a picture is resized moves a FID by more than many methods differ (Parmar, Zhang, Zhu, "On
aliased resizing and surprising subtleties in GAN evaluation", CVPR 2022), so it is done in one
place, and the same for every figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import DataError, UnreadableImageError, read_image
from ..data.stream import channels_first


def paper_crop(image: Image.Image, size: int) -> Image.Image:
    """The centred square of a picture, resized to size x size: bilinear, with antialiasing."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    # Pillow's filter grows with the factor: it antialiases.
    return square.resize((size, size), Image.Resampling.BILINEAR)


class Pictures:
    """Batches of `paper_crop`s, in the order of the files; files that cannot be read are left out.

    Args:
        files: the pictures.
        size: side of the crops in pixels.
        batch_size: pictures in a batch; the last one may be smaller.

    Attributes:
        skipped: the files that could not be read, once they have been iterated over.
    """

    def __init__(self, files: Sequence[Path], size: int, batch_size: int = 16) -> None:
        for name, value in (("size", size), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.files, self.size, self.batch_size = list(files), size, batch_size
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Tensor]:
        """uint8 (B, 3, size, size); a DataError if no file at all can be read."""
        self.skipped, batch, found = [], [], False
        for file in self.files:
            try:
                picture = paper_crop(read_image(file), self.size)
            except UnreadableImageError:
                self.skipped.append(str(file))
                continue
            found = True
            batch.append(channels_first(np.asarray(picture)))
            if len(batch) == self.batch_size:
                yield torch.stack(batch)
                batch = []
        if not found:
            first = self.skipped[0] if self.skipped else "an empty list"
            raise DataError(f"none of the {len(self.files)} pictures can be read, {first} first")
        if batch:
            yield torch.stack(batch)
