"""The codes of a picture that is to be completed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import VQGAN


Box = tuple[int, int, int, int]


def known_codes(
    model: VQGAN,
    picture: Path,
    mask: Path | None,
    draw_box: Box | None = None,
    keep_box: Box | None = None,
) -> tuple[Tensor, tuple[int, int]]:
    """Codes (H, W) of a picture, -1 where new ones are to be drawn, and (H, W).

    Args:
        model: encodes the picture, which is cut at its right and lower border to multiples of the
            downsampling factor.
        picture: a file.
        mask: a picture of the same size, white where new pixels are wanted: a cell is drawn anew if
            any of its pixels is.
        draw_box, keep_box: instead of a mask, the pixels (left, top, right, bottom) that are drawn
            anew, or all but those. With none of the three it is the lower half.

    A code that is drawn sees the kept ones before it in raster order, not those behind it: what
    stands above and to the left of a hole leads into it, what is below is met by chance.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no picture; the sizes do not fit;
            nothing is to be drawn.
    """
    import torch
    import torch.nn.functional as F

    from ..data import to_model_range

    pixels = _read(picture)
    factor = model.downsampling_factor
    height, width = (side // factor for side in pixels.shape[2:])
    if min(height, width) < 1:
        raise ValueError(f"{picture} is smaller than one code, {factor} x {factor} pixels")
    x = to_model_range(
        pixels[..., : height * factor, : width * factor], next(model.parameters()).device
    )
    with torch.no_grad():
        codes = model.encode_indices(x)[0].cpu()
    wanted = torch.zeros(1, 1, *pixels.shape[2:])
    if mask is not None:
        white = _read(mask)
        if white.shape != pixels.shape:
            raise ValueError(
                f"--mask must be as large as the picture, {pixels.shape[3]} x {pixels.shape[2]} "
                f"pixels, got {mask} of {white.shape[3]} x {white.shape[2]}"
            )
        wanted = (white.float().mean(1, keepdim=True) > 127).float()
    elif draw_box or keep_box:
        left, top, right, bottom = draw_box or keep_box
        if right > pixels.shape[3] or bottom > pixels.shape[2]:
            raise ValueError(
                f"the box must lie in {picture}, {pixels.shape[3]} x {pixels.shape[2]} pixels, got "
                f"{left},{top},{right},{bottom}"
            )
        wanted[..., top:bottom, left:right] = 1
        if keep_box:
            wanted = 1 - wanted
    else:
        wanted[..., factor * (height // 2) :, :] = 1
    drawn = F.max_pool2d(wanted, factor)[0, 0, :height, :width] > 0
    if not drawn.any():
        what = f"--mask {mask} is empty: no pixel is white" if mask else "the box leaves nothing"
        raise ValueError(f"{what}, so that there is nothing to draw")
    codes[drawn] = -1
    return codes, (height, width)


def _read(path: Path) -> Tensor:
    """uint8 (1, 3, H, W)."""
    import numpy as np

    from ..data import UnreadableImageError, read_image
    from ..data.stream import channels_first

    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        picture = read_image(path)
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error
    return channels_first(np.asarray(picture))[None]
