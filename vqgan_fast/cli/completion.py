"""The codes of a picture that is to be completed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import VQGAN


def known_codes(model: VQGAN, picture: Path, mask: Path | None) -> tuple[Tensor, tuple[int, int]]:
    """Codes (H, W) of a picture, -1 where new ones are to be drawn, and (H, W).

    Args:
        model: encodes the picture, which is cut at its right and lower border to multiples of the
            downsampling factor.
        picture: a file.
        mask: a picture of the same size, white where new pixels are wanted: a cell is drawn anew if
            any of its pixels is. None means the lower half.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no picture; the sizes do not fit.
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
    if mask is None:
        codes[height // 2 :] = -1
        return codes, (height, width)
    wanted = _read(mask)
    if wanted.shape != pixels.shape:
        raise ValueError(
            f"--mask must be as large as the picture, {pixels.shape[3]} x {pixels.shape[2]} "
            f"pixels, got {wanted.shape[3]} x {wanted.shape[2]}"
        )
    white = (wanted.float().mean(1, keepdim=True) > 127).float()
    codes[F.max_pool2d(white, factor)[0, 0, :height, :width] > 0] = -1
    return codes, (height, width)


def _read(path: Path) -> Tensor:
    """uint8 (1, 3, H, W)."""
    import torch

    from ..data import UnreadableImageError, read_image

    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        picture = read_image(path)
    except UnreadableImageError as error:
        raise ValueError(str(error)) from error
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).movedim(-1, 1)
