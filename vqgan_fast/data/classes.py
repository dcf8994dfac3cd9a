"""The class of a picture: the first folder on the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .images import DataError, PictureFile
from .maps import CropMap
from .places import place_of
from .shards import ShardedPictures
from .stream import View

TILE = 64  # side in pixels of a class's name as a picture


class ClassLabel(CropMap):
    """The number of each picture's class, the same for all its crops; (1, 1, 1).

    Args:
        classes: names, in the order of their numbers.
        labels: one for each picture of the stream.
    """

    channels = 1

    def __init__(self, classes: Sequence[str], labels: Sequence[int]) -> None:
        self.classes, self.labels = list(classes), list(labels)

    def content(self) -> Iterator[str]:
        return map(str, [*self.classes, *self.labels])

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        return np.array([[[self.labels[index]]]])

    def to_model(self, maps: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Labels (B,) int64."""
        return maps.to(device).flatten()

    def draw(self, x: Tensor) -> Tensor:
        """The names as uint8 pictures (B, 3, TILE, TILE) of labels (B,)."""
        return torch.stack([_written(self.classes[label]) for label in x.tolist()])


def class_names(pictures: Path | ShardedPictures) -> list[str]:
    """The names of the folders in a folder, or in shards, of class folders, sorted.

    Raises:
        DataError: there is none.
    """
    if isinstance(pictures, Path):
        folders = {path.name for path in pictures.iterdir() if path.is_dir()}
    else:
        places = map(PurePosixPath, pictures.names())
        folders = {place.parts[0] for place in places if len(place.parts) > 1}
    names = sorted(name for name in folders if not name.startswith("."))
    if not names:
        where = pictures if isinstance(pictures, Path) else pictures.shards[0].path
        raise DataError(f"{where} holds no folders of pictures, one for each class")
    return names


def class_labels(
    files: Sequence[PictureFile], folder: Path | None, classes: Sequence[str]
) -> list[int]:
    """The numbers of the pictures' classes; a DataError that names a picture without one.

    Args:
        folder: that of the class folders; None for members of shards.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for file in files:
        place = place_of(file, folder).parts
        if len(place) < 2 or place[0] not in numbers:
            raise DataError(
                f"{file} lies in no folder of a class; the {len(classes)} classes "
                f"are {', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}"
            )
        labels.append(numbers[place[0]])
    return labels


def _written(name: str) -> Tensor:
    tile = Image.new("RGB", (TILE, TILE), "white")
    draw = ImageDraw.Draw(tile)
    lines = "\n".join(name[start : start + 9] for start in range(0, len(name), 9))
    draw.multiline_text((3, 3), lines, "black", font=ImageFont.load_default())
    return torch.from_numpy(np.array(tile)).movedim(-1, 0).contiguous()
