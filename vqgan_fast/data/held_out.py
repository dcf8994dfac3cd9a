"""Fixed crops to measure on: pictures, or regions of pictures, that training does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .crops import (
    WHOLE_PICTURE,
    region_box,
    resize_shorter_side,
    resized_size,
    tile_crops,
)
from .images import DataError, PictureFile, UnreadableImageError, read_image, read_size


class HeldOut(NamedTuple):
    """`images` uint8 (V, 3, S, S); `skipped` the files that could not be read."""

    images: Tensor
    skipped: tuple[str, ...]


def held_out_crops(
    files: Sequence[PictureFile],
    *,
    size: int,
    resize: int | None = None,
    region: Sequence[float] = WHOLE_PICTURE,
    limit: int | None = None,
) -> HeldOut:
    """Crops that tile the region of every picture without overlap, neither flipped nor random.

    Args:
        files: the pictures.
        size: side S of the crops in pixels.
        resize: the shorter side of each picture becomes this many pixels first; None keeps it.
        region: (left, top, right, bottom) as fractions of each picture.
        limit: at most this many crops, spread evenly over the pictures; None takes all.

    Raises:
        DataError: a region holds no crop (the file is named), or no file can be read.
    """
    tiles, skipped = [], []
    for file in files:
        try:
            width, height = resized_size(*read_size(file), resize)
        except UnreadableImageError:
            skipped.append(str(file))
            continue
        boxes = tile_crops(region_box(width, height, region), size)
        if not boxes:
            raise DataError(
                f"{file}: the held-out region {tuple(region)} of its {width} x {height} pixels "
                f"holds no crop of {size} x {size}"
            )
        tiles += [(file, box) for box in boxes]
    if limit is not None and len(tiles) > limit:
        tiles = [tiles[index] for index in np.linspace(0, len(tiles) - 1, limit).astype(int)]
    crops, opened, image = [], None, None
    for file, box in tiles:
        if file != opened:
            opened, image = file, _read_or_none(file, resize)
            if image is None:
                skipped.append(str(file))
        if image is not None:
            pixels = np.array(image.crop(box)).transpose(2, 0, 1)
            crops.append(torch.from_numpy(np.ascontiguousarray(pixels)))
    if not crops:
        raise DataError(f"none of the {len(files)} held-out pictures can be read, {files[0]} first")
    return HeldOut(torch.stack(crops), tuple(skipped))


def _read_or_none(file: PictureFile, resize: int | None) -> Image.Image | None:
    try:
        return resize_shorter_side(read_image(file), resize)
    except UnreadableImageError:
        return None
