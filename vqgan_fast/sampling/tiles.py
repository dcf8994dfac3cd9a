"""Decoding grids of codes that are too large for one pass of the decoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..models import VQGAN, ColourCodes
from ..models.evaluating import evaluating
from ..quantizers.checks import check_integer
from .inputs import check_tensor

# The share of an overlap at either end of it that is not used at all: there the convolutions of one
# tile see its border instead of the picture.
UNUSED = 0.25


@torch.no_grad()
def decode_tiled(
    vqgan: VQGAN | ColourCodes, codes: Tensor, tile: int = 64, overlap: int = 16
) -> Tensor:
    """Decodes codes in overlapping tiles that fade into each other.

    A decoder's group normalisation and attention look at the whole of what they are given, so a
    tile's pixels differ a little from those of the whole picture wherever tiles lie: this is not
    `decode_indices` to rounding. What a fade over the overlap removes is the step at the border.

    Args:
        vqgan: the first stage.
        codes: (B, H, W) int64.
        tile: side of a tile, in codes; memory grows with its square. Larger grids are cut.
        overlap: of neighbouring tiles, in codes, in [1, tile / 2].

    Returns:
        (B, C, f H, f W) as the first stage decodes, on the codes' device, not clamped.

    Raises:
        TypeError: codes are no tensor.
        ValueError: sizes that do not fit, a code out of range.
    """
    check_integer("tile", tile)
    check_integer("overlap", overlap)
    if 2 * overlap > tile:
        raise ValueError(f"overlap must be at most half the tile of {tile}, got {overlap}")
    check_tensor("codes", codes)
    if codes.ndim != 3:
        raise ValueError(f"codes must be (B, H, W), got {tuple(codes.shape)}")
    height, width = codes.shape[1:]
    factor = vqgan.downsampling_factor
    with evaluating(vqgan):
        if max(height, width) <= tile or len(codes) == 0:
            return vqgan.decode_indices(codes)
        images = None
        for rows, row_fade in _strips(height, tile, overlap, factor):
            for columns, column_fade in _strips(width, tile, overlap, factor):
                fade = row_fade[:, None] * column_fade
                for number in range(len(codes)):
                    part = vqgan.decode_indices(codes[number, None, rows, columns])[0]
                    if images is None:  # a first stage of colours has no decoder to ask for these
                        shape = (len(codes), len(part), factor * height, factor * width)
                        images = part.new_zeros(shape)
                    place = images[number, :, _pixels(rows, factor), _pixels(columns, factor)]
                    place += fade.to(part) * part
    return images


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles at equal distances, as few as overlap by at least `overlap`."""
    if size <= tile:
        return [0]
    number = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (number - 1)) for i in range(number)]


def _strips(size: int, tile: int, overlap: int, factor: int) -> Iterator[tuple[slice, Tensor]]:
    """Each tile along one side, and the weights (factor * its codes,) of its pixels; the weights of
    all tiles add up to 1 at each pixel."""
    starts = _starts(size, tile, overlap)
    ends = [min(start + tile, size) for start in starts]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        pixels = torch.arange(factor * start, factor * end, dtype=torch.float64, device="cpu") + 0.5
        fade = torch.ones_like(pixels)
        if number > 0:
            fade *= _ramp(pixels, factor * start, factor * ends[number - 1])
        # Of a wide overlap the tile after the next may have begun as well.
        for later in range(number + 1, len(starts)):
            fade *= 1 - _ramp(pixels, factor * starts[later], factor * ends[later - 1])
        yield slice(start, end), fade


def _ramp(pixels: Tensor, begin: int, end: int) -> Tensor:
    """From 0 to 1 in the middle part of an overlap."""
    unused = UNUSED * (end - begin)
    return ((pixels - begin - unused) / (end - begin - 2 * unused)).clamp(0, 1)


def _pixels(codes: slice, factor: int) -> slice:
    return slice(factor * codes.start, factor * codes.stop)
