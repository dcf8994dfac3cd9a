"""The folders of PNG files that `evaluate` writes, and how those of an earlier call go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLDERS = ("real", "reconstructions", "samples")
# What `PictureFolder.save` writes; with a dot in front where a call was killed in the middle of it.
_WRITTEN = re.compile(r"\d{6,}\.png|\.\d{6,}\.png\.\d+\.tmp")
_ADVICE = "give --keep-pictures another folder"


@dataclass(frozen=True)
class PictureFolder:
    """Where the pictures of a call lie.

    Args:
        path: has those of FOLDERS in it that were needed.
        kept: the user looks at them; False where they are only compared and removed again.
    """

    path: Path
    kept: bool

    def save(self, name: str, images: Tensor, first: int) -> None:
        """Writes uint8 pictures (B, 3, H, W) as NAME/000000.png and so on, from `first` on."""
        from PIL import Image

        from ..data.naming import naming
        from ..report.pictures import write_picture

        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, start=first):
            picture = Image.fromarray(image.movedim(0, -1).contiguous().numpy())
            file = folder / f"{number:06d}.png"
            with naming(file):
                if self.kept:
                    write_picture(picture, file)
                else:  # nobody finds half a file there, and waiting for the disk would take long
                    picture.save(file)


def check_replaceable(folder: Path, sources: Iterable[Path]) -> None:
    """Raises a FileExistsError if more would be lost than the pictures of an earlier call.

    Args:
        folder: of the kept pictures.
        sources: what is to be read: pictures, folders or `.txt` lists of them.
    """
    old = [place for place in _places(folder) if place.is_symlink() or place.exists()]
    for place in old:
        if place.is_symlink() or not place.is_dir():
            raise FileExistsError(f"{place} is no folder that evaluate wrote; {_ADVICE}")
        for entry in place.iterdir():
            if not _WRITTEN.fullmatch(entry.name) or not entry.is_file():
                raise FileExistsError(f"evaluate did not write {entry}; {_ADVICE}")
    doomed = {place.resolve() for place in old}
    if not doomed:
        return
    for source in sources:
        for file in _files(source):
            if not doomed.isdisjoint(file.resolve().parents):
                raise FileExistsError(f"{file} is to be read and would be replaced; {_ADVICE}")


def remove_old(folder: Path) -> None:
    """Removes the pictures of an earlier call, which `check_replaceable` has looked at."""
    for place in filter(Path.is_dir, _places(folder)):
        for entry in place.iterdir():
            if _WRITTEN.fullmatch(entry.name):
                entry.unlink()
        if not any(place.iterdir()):
            place.rmdir()


def _places(folder: Path) -> list[Path]:
    return [folder / name for name in FOLDERS]


def _files(source: Path) -> Iterator[Path]:
    from ..data import list_images

    if source.is_dir() or source.suffix.lower() == ".txt":
        yield from list_images(source)
    else:
        yield source
