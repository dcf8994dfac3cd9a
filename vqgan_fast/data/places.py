"""Where a picture lies in its folder or in its shard: what labels and maps go by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .images import PictureFile
from .shards import ShardMember


def place_of(file: PictureFile, folder: Path | None = None) -> PurePosixPath:
    """The path of a picture below its folder, or its name in its shard.

    Args:
        folder: of a picture that is a file; None leaves its path as it is.
    """
    if isinstance(file, ShardMember):
        return PurePosixPath(file.member.name)
    path = Path(str(file))
    return PurePosixPath((path if folder is None else path.relative_to(folder)).as_posix())


class Picked(Sequence[PictureFile]):
    """Some pictures of a sequence, by their numbers; each is made when it is asked for."""

    def __init__(self, pictures: Sequence[PictureFile], numbers: Sequence[int]) -> None:
        self.pictures, self.numbers = pictures, np.asarray(numbers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Picked(self.pictures, self.numbers[index])
        return self.pictures[int(self.numbers[index])]
