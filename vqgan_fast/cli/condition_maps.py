"""The maps of files that a condition is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from ..data import CropMap
    from ..models import CodesCondition

Grid = tuple[int, int]


class NamedMap(NamedTuple):
    """What errors call a map, and its values (height, width, C) as its kind gives them."""

    name: str
    values: np.ndarray


def read_maps(
    stage: CodesCondition, files: Sequence[Path], grid: Grid | None
) -> tuple[CropMap, list[np.ndarray], Grid]:
    """The kind of map that a condition takes, the maps of files, and the grid of their codes.

    Args:
        files: labels or depth themselves; one JSON file of poses, which may hold several pictures;
            of edges the picture whose edges they are, of low_resolution the small picture.
        grid: that the maps must have, in codes; None takes that of the first.

    Raises:
        FileNotFoundError, ValueError: no file, not of that kind, or of another size than the grid;
            the file is named.
    """
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
    kind, maps = _open(stage, files)
    factor = stage.vqgan.downsampling_factor
    for name, values in maps:
        height, width = values.shape[:2]
        grid = (height // factor, width // factor) if grid is None else grid
        expected = (factor * grid[0], factor * grid[1])
        if (height, width) != expected:
            raise ValueError(
                f"{name} gives a condition of {width} x {height} pixels, expected {expected[1]} x "
                f"{expected[0]}: {factor} x {factor} pixels for each of {grid[0]} x {grid[1]} codes"
            )
    return kind, [values for _, values in maps], grid


def _open(stage: CodesCondition, files: Sequence[Path]) -> tuple[CropMap, list[NamedMap]]:
    import numpy as np

    from ..data import Keypoints, read_image
    from ..data.keypoints import read_keypoints
    from ..train.config import MapConfig
    from ..train.training_crops import make_map

    options = MapConfig(**stage.maps)
    names = [str(file) for file in files]
    if options.kind == "keypoints":
        if len(files) > 1:
            raise ValueError(f"--condition takes one file of keypoints, got {len(files)}")
        poses = read_keypoints(files[0])
        kind = Keypoints([Path(name) for name in poses.sizes], poses)
        names = [f"{files[0]} ({name})" for name in poses.sizes]
        pictures = [_blank(*size) for size in poses.sizes.values()]
    else:
        kind = make_map(options, files)
        if options.kind == "low_resolution":
            small = map(read_image, files)
            enlarged = [np.asarray(kind.enlarged(picture)) for picture in small]
            return kind, [NamedMap(*pair) for pair in zip(names, enlarged, strict=True)]
        if options.kind == "edges":
            pictures = [np.asarray(read_image(file)) for file in files]
        else:
            pictures = [_blank(*kind.read(file).size) for file in files]
    return kind, [
        NamedMap(name, kind.crop(index, picture, _whole(picture)))
        for index, (name, picture) in enumerate(zip(names, pictures, strict=True))
    ]


def _blank(width: int, height: int) -> np.ndarray:
    """In a picture's place, for a kind of map that reads its size alone."""
    import numpy as np

    return np.empty((height, width, 3), np.uint8)


def _whole(picture: np.ndarray) -> object:
    from ..data.crops import Box
    from ..data.stream import View

    height, width = picture.shape[:2]
    return View(Box(0, 0, width, height), mirrored=False)
