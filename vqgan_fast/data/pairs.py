"""Pictures with a map beside each of them, cropped and mirrored together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from .images import (
    EXTENSIONS,
    DataError,
    PictureFile,
    UnreadableImageError,
    listed,
    read_size,
)
from .maps import CropMap, FileMap
from .places import Picked, place_of
from .shards import ShardedPictures, ShardMember
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

    A picture with a map that cannot be read is passed over like one that cannot be read itself.

    Args:
        files: the pictures.
        maps: kinds of maps; one made of files has a file for each picture.
        settings: as `ImageStream`; `cache` keeps maps that are files as well, each once it was
            read.

    Raises:
        ValueError: a kind has not as many files as there are pictures; as `ImageStream`.
        DataError: as `ImageStream`.
    """

    def __init__(
        self, files: Sequence[PictureFile], maps: Sequence[CropMap], **settings: object
    ) -> None:
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

    def _sample(  # type: ignore[override]
        self, index: int, epoch: int, position: int, skipped: tuple[str, ...]
    ) -> PairedSample:
        picture = self._picture(index)
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

    pictures: Sequence[PictureFile]
    maps: Sequence[PictureFile]
    left_out: list[str]


def pair_by_name(
    pictures: Sequence[PictureFile],
    picture_folder: Path | None,
    maps: Path | ShardedPictures,
    *,
    unpaired: str = "refuse",
) -> Pairs:
    """For each picture the map of the same name, whatever its extension, in the same subfolder.

    Of a picture or a map that cannot be read nothing is said here: a stream passes over it.

    Args:
        pictures: files below `picture_folder`, or members of shards.
        picture_folder: None for members of shards.
        maps: a folder, searched for FOLDER/NAME.* with the picture's place below its own, or shards
            of maps, searched for a member of that name.
        unpaired: "refuse" raises where a map is missing, ambiguous or of another size than its
            picture; "skip" leaves such pictures out.

    Raises:
        DataError: as said, with the files named; no pair at all.
        ValueError: `unpaired` is neither.
    """
    source = _MapShards(maps) if isinstance(maps, ShardedPictures) else _MapFolder(maps)
    kept, problems = [], []
    for number, picture in enumerate(pictures):
        place = place_of(picture, picture_folder)
        found = source.find(place)
        problem = _problem(picture, place, found, source)
        if problem is None:
            kept.append(number)
            source.keep(found[0])
        else:
            problems.append(problem)
    settle_problems(problems, len(pictures), source.name, unpaired)
    return Pairs(Picked(pictures, kept), source.kept(), problems)


def settle_problems(problems: Sequence[str], total: int, maps: str | Path, unpaired: str) -> None:
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
        raise DataError(
            f"{len(problems)} of {total} pictures have no fitting map in {maps}:{listed(problems)}"
        )
    if len(problems) == total:
        raise DataError(
            f"none of the {total} pictures has a fitting map in {maps}; the first: {problems[0]}"
        )


class _MapFolder:
    """Maps that are files; what is found are their paths."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"there is no folder of maps {folder}")
        self.folder, self.name, self.files = folder, str(folder), []
        self.by_stem: dict[PurePosixPath, dict[str, list[Path]]] = {}  # of each subfolder

    def find(self, place: PurePosixPath) -> list[Path]:
        if place.parent not in self.by_stem:  # one look at a folder, however many files it has
            self.by_stem[place.parent] = self._listed(self.folder / place.parent)
        return self.by_stem[place.parent].get(place.stem, [])

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        by_stem: dict[str, list[Path]] = {}
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.suffix.lower() in EXTENSIONS:
                by_stem.setdefault(file.stem, []).append(file)
        return by_stem

    def file(self, found: Path) -> Path:
        return found

    def keep(self, found: Path) -> None:
        self.files.append(found)

    def kept(self) -> list[Path]:
        return self.files

    def where(self, place: PurePosixPath) -> str:
        return str(self.folder / place.parent)


class _MapShards:
    """Maps that are members of shards; what is found are their numbers."""

    def __init__(self, shards: ShardedPictures) -> None:
        self.shards, self.name, self.numbers = shards, str(shards.shards[0].path.parent), []
        self.by_place: dict[str, list[int]] = {}
        for number, name in enumerate(shards.names()):
            self.by_place.setdefault(_without_suffix(PurePosixPath(name)), []).append(number)

    def find(self, place: PurePosixPath) -> list[int]:
        return self.by_place.get(_without_suffix(place), [])

    def file(self, found: int) -> ShardMember:
        return self.shards[found]

    def keep(self, found: int) -> None:
        self.numbers.append(found)

    def kept(self) -> Picked:
        return Picked(self.shards, self.numbers)

    def where(self, place: PurePosixPath) -> str:
        return f"the shards of maps in {self.name}"


def _problem(
    picture: PictureFile, place: PurePosixPath, found: list, source: _MapFolder | _MapShards
) -> str | None:
    if not found:
        return f"{picture}: no {place.stem}.* in {source.where(place)}"
    files = [source.file(one) for one in found]
    if len(files) > 1:
        names = ", ".join(place_of(file).name for file in files)
        return f"{picture}: several maps, {names}"
    try:
        sizes = [read_size(file) for file in (picture, files[0])]
    except UnreadableImageError:
        return None
    if sizes[0] != sizes[1]:
        (width, height), (map_width, map_height) = sizes
        return (
            f"{picture} is {width} x {height} pixels, its map {files[0]} {map_width} x {map_height}"
        )
    return None


def _without_suffix(place: PurePosixPath) -> str:
    return str(place.with_suffix(""))
