"""Pictures with a map beside each of them, cropped and mirrored together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .images import EXTENSIONS, DataError, UnreadableImageError, read_size
from .maps import CropMap, FileMap
from .stream import ImageStream, all_skipped, channels_first


class PairedSample(NamedTuple):
    """A crop, `image` uint8 (3, S, S), and the `maps` (C, S, S) of it."""

    image: Tensor
    maps: tuple[Tensor, ...]
    position: int
    skipped: tuple[str, ...]


class PairedBatch(NamedTuple):
    """`images` uint8 (B, 3, S, S), for each kind of map a (B, C, S, S), B global `positions`."""

    images: Tensor
    maps: tuple[Tensor, ...]
    positions: list[int]
    skipped: tuple[str, ...]


class PairedStream(ImageStream):
    """An `ImageStream` that gives the maps of every crop as well.

    Args:
        files: the pictures.
        maps: kinds of maps; one made of files has a file for each picture.
        settings: as `ImageStream`; `cache` keeps maps that are files as well, each once it was
            read.
    """

    def __init__(self, files: Sequence[Path], maps: Sequence[CropMap], **settings: object) -> None:
        super().__init__(files, **settings)
        self.maps = tuple(maps)
        for kind in self.maps:
            paired = getattr(kind, "files", self.files)
            if len(paired) != len(self.files):
                raise ValueError(
                    f"maps must have a file for each of the {len(self.files)} pictures, "
                    f"got {len(paired)}"
                )
            if settings.get("cache") and isinstance(kind, FileMap):
                kind.keep()

    def __getitem__(self, position: int) -> PairedSample:  # type: ignore[override]
        epoch, index = self.order.locate(position)
        picture, index, skipped = self._readable_picture(index)
        view = self._view(picture, index, epoch, position)
        maps = tuple(channels_first(kind.crop(index, picture, view)) for kind in self.maps)
        return PairedSample(channels_first(view.cut(picture)), maps, position, skipped)

    @staticmethod
    def collate(samples: list[PairedSample]) -> PairedBatch:  # type: ignore[override]
        return PairedBatch(
            torch.stack([sample.image for sample in samples]),
            tuple(map(torch.stack, zip(*(sample.maps for sample in samples), strict=True))),
            [sample.position for sample in samples],
            all_skipped(samples),
        )


class Pairs(NamedTuple):
    """Pictures and, in the same order, their maps; `left_out` says which had to go and why."""

    pictures: list[Path]
    maps: list[Path]
    left_out: list[str]


def pair_by_name(
    pictures: Sequence[Path],
    picture_folder: Path,
    map_folder: Path,
    *,
    unpaired: str = "refuse",
) -> Pairs:
    """For each picture the map of the same name, whatever its extension, in the same subfolder.

    Args:
        pictures: files below `picture_folder`.
        map_folder: searched for FOLDER/NAME.*, with the picture's place below `picture_folder`.
        unpaired: "refuse" raises where a map is missing, ambiguous or of another size than its
            picture; "skip" leaves such pictures out.

    Raises:
        DataError: as said, with the files named; no pair at all.
        ValueError: `unpaired` is neither.
    """
    if not map_folder.is_dir():
        raise DataError(f"there is no folder of maps {map_folder}")
    kept, maps, problems = [], [], []
    for picture in pictures:
        place = map_folder / picture.relative_to(picture_folder).parent
        found = [
            file
            for file in sorted(place.glob(f"{_escaped(picture.stem)}.*"))
            if file.suffix.lower() in EXTENSIONS
        ]
        problem = _problem(picture, found, place)
        if problem is None:
            kept.append(picture)
            maps.append(found[0])
        else:
            problems.append(problem)
    settle_problems(problems, len(pictures), map_folder, unpaired)
    return Pairs(kept, maps, problems)


def settle_problems(problems: Sequence[str], total: int, maps: Path, unpaired: str) -> None:
    """Refuses pictures without a fitting map, unless they may be skipped and others are left.

    Args:
        problems: a line for each of them.
        total: how many pictures there are.
        maps: where their maps are.
        unpaired: "refuse" or "skip".

    Raises:
        DataError: they may not be skipped, or all would be; ValueError: `unpaired` is neither.
    """
    if unpaired not in ("refuse", "skip"):
        raise ValueError(f"unpaired must be 'refuse' or 'skip', got {unpaired!r}")
    if problems and unpaired == "refuse":
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(
            f"{len(problems)} of {total} pictures have no fitting map in {maps}:\n  "
            + "\n  ".join(problems[:5])
            + more
        )
    if len(problems) == total:
        raise DataError(f"none of the {total} pictures has a map in {maps}")


def _problem(picture: Path, found: list[Path], place: Path) -> str | None:
    if not found:
        return f"{picture}: no {picture.stem}.* in {place}"
    if len(found) > 1:
        return f"{picture}: several maps, {', '.join(file.name for file in found)}"
    try:
        sizes = [read_size(file) for file in (picture, found[0])]
    except UnreadableImageError as error:
        return str(error)
    if sizes[0] != sizes[1]:
        (width, height), (map_width, map_height) = sizes
        return (
            f"{picture} is {width} x {height} pixels, its map {found[0]} {map_width} x {map_height}"
        )
    return None


def _escaped(name: str) -> str:
    """A file name for glob, with its own brackets and stars taken literally."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in name)
