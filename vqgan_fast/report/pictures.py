"""Image tensors as PIL pictures, alone and laid out on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..models.pretrained import replacing

PAPER, INK = (255, 255, 255), (70, 70, 70)
GAP = 4  # pixels between the pictures of a sheet
LABEL_HEIGHT = 18


def to_picture(image: Tensor, scale: int = 1) -> Image.Image:
    """A picture of an image tensor.

    Args:
        image: (3, H, W) or (1, H, W) floating point; values beyond [-1, 1] are clamped.
        scale: repeats every pixel this many times in both directions.
    """
    levels = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def picture_grid(images: Tensor, columns: int | None = None, scale: int = 1) -> Image.Image:
    """A sheet of equally large images, filled row by row.

    Args:
        images: (B, C, H, W) in [-1, 1], B >= 1.
        columns: pictures in a row; None chooses a sheet that is about square.
    """
    count, _, height, width = images.shape
    if columns is None:
        columns = max(1, min(count, round((count * height / width) ** 0.5)))
    rows = [
        [to_picture(image, scale) for image in images[first : first + columns]]
        for first in range(0, count, columns)
    ]
    return stack([beside(row) for row in rows])


def comparison(rows: Sequence[tuple[str, Tensor]], columns: int = 8, scale: int = 1) -> Image.Image:
    """Rows of images under each other that belong together, with the name of each row above it.

    Args:
        rows: (name, images (B, C, H, W) in [-1, 1]), all with the same B; where B is larger than
            `columns` the block of rows is repeated.
    """
    count = len(rows[0][1])
    blocks = []
    for first in range(0, count, columns):
        for name, images in rows:
            shown = images[first : first + columns]
            pictures = beside([to_picture(image, scale) for image in shown])
            blocks.append(labelled(pictures, name))
    return stack(blocks)


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text above it."""
    sheet = Image.new("RGB", (picture.width, picture.height + LABEL_HEIGHT), PAPER)
    sheet.paste(picture, (0, LABEL_HEIGHT))
    ImageDraw.Draw(sheet).text((GAP, 2), text, INK, font=ImageFont.load_default())
    return sheet


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures next to each other, aligned at the top."""
    width = sum(picture.width + GAP for picture in pictures) - GAP
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures under each other, aligned at the left."""
    height = sum(picture.height + GAP for picture in pictures) - GAP
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + GAP
    return sheet


def write_picture(picture: Image.Image, path: Path, notes: PngInfo | None = None) -> None:
    """Writes a PNG whole or not at all, with notes in it; its folder is made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=notes)
