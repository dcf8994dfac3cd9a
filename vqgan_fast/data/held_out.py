"""Fixed crops to measure on: pictures, or regions of pictures, that training does not see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .crops import (
    WHOLE_PICTURE,
    center_crop,
    fits,
    region_box,
    resize_shorter_side,
    resized_size,
    tile_crops,
)
from .images import (
    DataError,
    LeftOutWarning,
    PictureFile,
    UnreadableImageError,
    listed,
    read_image,
    read_size,
)
from .maps import CropMap
from .stream import View, channels_first


class HeldOut(NamedTuple):
    """`images` uint8 (V, 3, S, S); `skipped` the files that could not be read, or whose maps could
    not."""

    images: Tensor
    skipped: tuple[str, ...]


class HeldOutPairs(NamedTuple):
    """`images` and `skipped` as above, and for each of the `kinds` of maps `maps` (V, C, S, S)."""

    images: Tensor
    skipped: tuple[str, ...]
    kinds: tuple[CropMap, ...]
    maps: tuple[Tensor, ...]

    def drawn(self, count: int) -> list[Tensor]:
        """For each kind the maps of the first crops as uint8 pictures (count, 3, S', S')."""
        parts = zip(self.kinds, self.maps, strict=True)
        return [kind.draw(kind.to_model(maps[:count])) for kind, maps in parts]


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
    crops = held_out_pairs(files, (), size=size, resize=resize, region=region, limit=limit)
    return HeldOut(crops.images, crops.skipped)


def held_out_pairs(
    files: Sequence[PictureFile],
    kinds: Sequence[CropMap],
    *,
    size: int,
    resize: int | None = None,
    region: Sequence[float] = WHOLE_PICTURE,
    limit: int | None = None,
    center: bool = False,
) -> HeldOutPairs:
    """The crops of `held_out_crops`, and the maps of each.

    Args:
        kinds: of maps; one made of files has a file for each picture.
        center: take one crop of each picture, in the middle of the region.

    Raises:
        DataError: as there; what a map holds cannot be used.
    """
    tiles, skipped = [], {}
    for index, file in enumerate(files):
        try:
            width, height = resized_size(*read_size(file), resize, file)
        except UnreadableImageError as error:
            skipped[index] = error
            continue
        box = region_box(width, height, region)
        if not fits(box, size):
            raise DataError(
                f"{file}: the held-out region {tuple(region)} of its {width} x {height} pixels "
                f"holds no crop of {size} x {size}"
            )
        boxes = [center_crop(box, size)] if center else tile_crops(box, size)
        tiles += [(index, box) for box in boxes]
    if limit is not None and len(tiles) > limit:
        tiles = [tiles[number] for number in np.linspace(0, len(tiles) - 1, limit).astype(int)]
    crops, cut_maps, opened, pixels = [], [], None, None
    for index, box in tiles:
        if index in skipped:
            continue
        view = View(box, mirrored=False)
        try:
            if index != opened:
                opened = index
                file = files[index]
                pixels = np.asarray(resize_shorter_side(read_image(file), resize, file))
            cut_maps.append([channels_first(kind.crop(index, pixels, view)) for kind in kinds])
        except UnreadableImageError as error:
            skipped[index] = error
            continue
        crops.append(channels_first(view.cut(pixels)))
    reasons = listed([str(error) for error in skipped.values()])
    if not crops:
        raise DataError(f"none of the {len(files)} held-out pictures can be read:{reasons}")
    if skipped:
        told = f"{len(skipped)} held-out pictures left out:{reasons}"
        warnings.warn(told, LeftOutWarning, stacklevel=2)
    names = tuple(str(files[index]) for index in skipped)
    stacked = tuple(torch.stack(of_a_kind) for of_a_kind in zip(*cut_maps, strict=True))
    return HeldOutPairs(torch.stack(crops), names, tuple(kinds), stacked)
