"""Small pictures for tests, different enough that none can be taken for another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(number: int, width: int, height: int) -> np.ndarray:
    """A smooth coloured pattern that depends on `number`, uint8 (height, width, 3)."""
    x = np.linspace(0, 2 * np.pi, width)[None, :, None]
    y = np.linspace(0, 2 * np.pi, height)[:, None, None]
    phase = np.arange(3)[None, None, :] * 2.1 + number
    wave = np.sin((1 + number % 3) * x + phase) + np.cos((1 + number % 2) * y - phase)
    return ((wave + 2) / 4 * 255).round().astype(np.uint8)


def write_pictures(folder: Path, count: int, width: int = 48, height: int = 40) -> list[Path]:
    """`count` PNG files in a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"picture_{number:03d}.png" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(pixels(number, width, height)).save(file)
    return files


def write_truncated_jpeg(file: Path, number: int = 0) -> Path:
    """A JPEG whose header is sound and whose second half is missing."""
    Image.fromarray(pixels(number, 64, 64)).save(file, quality=95)
    return cut_in_half(file)


def cut_in_half(file: Path) -> Path:
    """Leaves the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file
