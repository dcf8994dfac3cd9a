"""From a picture to a training crop: resize the shorter side, keep to a region, crop, flip.

All boxes are in pixels of the resized picture, as `Box(left, top, right, bottom)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .images import PictureFile, UnreadableImageError

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


class Box(NamedTuple):
    """Pixels `left <= x < right`, `top <= y < bottom`."""

    left: int
    top: int
    right: int
    bottom: int


def resized_size(
    width: int, height: int, shorter: int | None, file: PictureFile = "the picture"
) -> tuple[int, int]:
    """(width, height) after the shorter side became `shorter` pixels (None: unchanged).

    Raises:
        UnreadableImageError: it would grow beyond what Pillow takes for a picture, as a thin one
            does; `file` is named.
    """
    if shorter is None:
        return width, height
    if width <= height:
        resized = shorter, max(shorter, round(height * shorter / width))
    else:
        resized = max(shorter, round(width * shorter / height)), shorter
    pixels, limit = math.prod(resized), Image.MAX_IMAGE_PIXELS  # None where the user lifted it
    if limit is not None and pixels > max(limit, width * height):
        raise UnreadableImageError(
            f"{file} is too thin: with its shorter side at {shorter} pixels its {width} x {height} "
            f"would be {resized[0]} x {resized[1]} = {pixels} pixels, and at most {limit} are taken"
        )
    return resized


def resize_shorter_side(
    image: Image.Image, shorter: int | None, file: PictureFile = "the picture"
) -> Image.Image:
    """The picture with its shorter side at `shorter` pixels, bicubic with antialiasing.

    Raises:
        UnreadableImageError: as `resized_size`.
    """
    size = resized_size(*image.size, shorter, file)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def region_box(width: int, height: int, region: Sequence[float]) -> Box:
    """The pixels that lie wholly inside a region given as fractions (left, top, right, bottom).

    Rounding is inwards, so two regions that share an edge share no pixel.
    """
    left, top, right, bottom = region
    # The slack keeps 0.7 * 10 = 7.000000000000001 from losing a pixel; regions still never overlap.
    return Box(
        math.ceil(left * width - 1e-6),
        math.ceil(top * height - 1e-6),
        math.floor(right * width + 1e-6),
        math.floor(bottom * height + 1e-6),
    )


def fits(box: Box, size: int) -> bool:
    """Whether a crop of `size` x `size` pixels fits into the box."""
    return box.right - box.left >= size and box.bottom - box.top >= size


def always_fits(shorter: int, region: Sequence[float], size: int) -> bool:
    """Whether a crop fits into the region of every picture without a side below `shorter` pixels.

    Rounded inwards, a region may be a pixel smaller in a larger picture; two pixels is all that
    rounding takes, so that from some side on every one is large enough.
    """
    left, top, right, bottom = region
    enough = math.ceil((size + 2) / min(right - left, bottom - top))
    sides = range(shorter, max(shorter, enough) + 1)
    return all(fits(region_box(side, side, region), size) for side in sides)


def random_crop(box: Box, size: int, generator: np.random.Generator) -> Box:
    """A crop of `size` x `size` pixels anywhere in the box."""
    left = int(generator.integers(box.left, box.right - size, endpoint=True))
    top = int(generator.integers(box.top, box.bottom - size, endpoint=True))
    return Box(left, top, left + size, top + size)


def center_crop(box: Box, size: int) -> Box:
    """The crop of `size` x `size` pixels in the middle of the box."""
    left = box.left + (box.right - box.left - size) // 2
    top = box.top + (box.bottom - box.top - size) // 2
    return Box(left, top, left + size, top + size)


def tile_crops(box: Box, size: int) -> list[Box]:
    """The crops of `size` x `size` pixels that fit side by side, centred in the box, row by row."""
    columns, rows = (box.right - box.left) // size, (box.bottom - box.top) // size
    left = box.left + (box.right - box.left - columns * size) // 2
    top = box.top + (box.bottom - box.top - rows * size) // 2
    return [
        Box(left + i * size, top + j * size, left + (i + 1) * size, top + (j + 1) * size)
        for j in range(rows)
        for i in range(columns)
    ]
