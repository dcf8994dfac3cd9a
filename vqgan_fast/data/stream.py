"""The endless stream of training crops, addressed by global position."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .crops import (
    WHOLE_PICTURE,
    Box,
    always_fits,
    center_crop,
    fits,
    random_crop,
    region_box,
    resize_shorter_side,
    resized_size,
)
from .images import DataError, PictureFile, UnreadableImageError, listed, read_image, read_size
from .order import AUGMENTATION, SampleOrder, counter_generator, rank_positions
from .worker_errors import Collate, Told, ignore_signals, told_by_workers

Item = TypeVar("Item")


class Sample(NamedTuple):
    """One crop: `image` uint8 (3, S, S), its global position, the files skipped on its way."""

    image: Tensor
    position: int
    skipped: tuple[str, ...]


class Batch(NamedTuple):
    """`images` uint8 (B, 3, S, S), their B global `positions`, and unreadable files `skipped`."""

    images: Tensor
    positions: list[int]
    skipped: tuple[str, ...]


class View(NamedTuple):
    """A crop of a picture, and whether it is seen in a mirror."""

    box: Box
    mirrored: bool

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The crop of an array (height, width, ...) of the picture's size."""
        left, top, right, bottom = self.box
        cut = pixels[top:bottom, left:right]
        return cut[:, ::-1] if self.mirrored else cut


class ImageStream(Dataset[Sample]):
    """Crops of pictures; item p is a pure function of (files, settings, seed, p), with no end of p.

    A file that cannot be read gives its places to the next readable file of the list.

    Args:
        files: the pictures, as `list_images` returns them, or a `ShardedPictures`.
        size: side S of the crops in pixels.
        resize: each picture's shorter side becomes this many pixels before cropping; None keeps it.
        crop: "random" or "center".
        flip: mirror half of the crops.
        region: (left, top, right, bottom) as fractions of each picture; crops stay inside.
        seed: of order and augmentation.
        shuffle: a new permutation each epoch; False keeps the order of `files`.
        cache: decode and resize every picture once, now, and keep them in memory as 8-bit RGB.

    Raises:
        ValueError: crop is neither, or there are no files.
        DataError: no file can be read, or pictures (the first are named) have a
            region smaller than a crop.
    """

    def __init__(
        self,
        files: Sequence[PictureFile],
        *,
        size: int,
        resize: int | None = None,
        crop: str = "random",
        flip: bool = False,
        region: Sequence[float] = WHOLE_PICTURE,
        seed: int = 0,
        shuffle: bool = True,
        cache: bool = False,
    ) -> None:
        if crop not in ("random", "center"):
            raise ValueError(f"crop must be 'random' or 'center', got {crop!r}")
        self.files = files
        self.size, self.resize, self.crop, self.flip, self.region = size, resize, crop, flip, region
        self.seed = seed
        self.order = SampleOrder(len(self.files), seed, shuffle)
        self._unreadable: set[int] = set()
        self._cached: dict[int, np.ndarray] = {}
        self._find_readable()
        self._check_sizes()
        if cache:
            self._fill_cache()

    def __getitem__(self, position: int) -> Sample:
        epoch, index = self.order.locate(position)
        skipped: list[str] = []
        reason = None
        for offset in range(len(self.files)):
            candidate = (index + offset) % len(self.files)
            if candidate not in self._unreadable:
                try:
                    return self._sample(candidate, epoch, position, tuple(skipped))
                except UnreadableImageError as error:
                    self._unreadable.add(candidate)
                    reason = error
            skipped.append(str(self.files[candidate]))
        raise DataError(
            f"none of the {len(self.files)} pictures can be read any more; the last: {reason}"
        )

    def _sample(self, index: int, epoch: int, position: int, skipped: tuple[str, ...]) -> Sample:
        """The sample at a position, of the picture `index`; an UnreadableImageError passes on."""
        picture = self._picture(index)
        view = self._view(picture, index, epoch, position)
        return Sample(channels_first(view.cut(picture)), position, skipped)

    def _view(self, picture: np.ndarray, index: int, epoch: int, position: int) -> View:
        """Where a sample lies in its picture; what is drawn depends on its position alone."""
        box = self._region(picture.shape[1], picture.shape[0], self.files[index])
        generator = counter_generator(self.seed, AUGMENTATION, epoch, position)
        if self.crop == "random":
            box = random_crop(box, self.size, generator)
        else:
            box = center_crop(box, self.size)
        return View(box, mirrored=self.flip and bool(generator.random() < 0.5))

    @staticmethod
    def collate(samples: list[Sample]) -> Batch:
        """Samples as one batch."""
        return Batch(
            torch.stack([sample.image for sample in samples]),
            [sample.position for sample in samples],
            all_skipped(samples),
        )

    def _picture(self, index: int) -> np.ndarray:
        """The resized picture, uint8 (height, width, 3)."""
        if index in self._cached:
            return self._cached[index]
        file = self.files[index]
        return np.asarray(resize_shorter_side(read_image(file), self.resize, file))

    def _region(self, width: int, height: int, file: PictureFile) -> Box:
        box = region_box(width, height, self.region)
        if not fits(box, self.size) and tuple(self.region) == WHOLE_PICTURE:
            raise DataError(
                f"{file}: its {width} x {height} pixels {'after resizing ' if self.resize else ''}"
                f"are fewer than a crop of {self.size} x {self.size}; use a larger resize, a "
                f"smaller size or larger pictures"
            )
        if not fits(box, self.size):
            raise DataError(
                f"{file}: the region {tuple(self.region)} of its {width} x {height} pixels "
                f"{'after resizing ' if self.resize else ''}is {box.right - box.left} x "
                f"{box.bottom - box.top}, smaller than a crop of {self.size} x {self.size}; use a "
                f"larger region, a larger resize or a smaller size"
            )
        return box

    def _find_readable(self) -> None:
        """Fail now, with the reason, if there is no picture at all that can be read."""
        reason = ""
        for index in range(len(self.files)):
            try:
                self._picture(index)
            except UnreadableImageError as error:
                self._unreadable.add(index)
                reason = reason or str(error)
            else:
                return
        raise DataError(f"none of the {len(self.files)} pictures can be read; the first: {reason}")

    def _check_sizes(self) -> None:
        """Fail now, not hours later, if regions of pictures cannot hold a crop (headers only)."""
        if self.resize is not None and always_fits(self.resize, self.region, self.size):
            return
        small = []
        for file in _bar(self.files, "reading sizes", len(self.files)):
            try:
                size = resized_size(*read_size(file), self.resize, file)
            except UnreadableImageError:
                continue
            try:
                self._region(*size, file)
            except DataError as error:
                small.append(str(error))
        if len(small) == 1:
            raise DataError(small[0])
        if small:
            raise DataError(
                f"{len(small)} of {len(self.files)} pictures are too small:{listed(small)}"
            )

    def _fill_cache(self) -> None:
        def load(index: int) -> tuple[int, np.ndarray | None]:
            try:
                return index, self._picture(index)
            except UnreadableImageError:
                return index, None

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            count = len(self.files)
            loaded = dict(_bar(pool.map(load, range(count)), "reading pictures", count))
        self._cached = {i: picture for i, picture in loaded.items() if picture is not None}
        self._unreadable = {i for i, picture in loaded.items() if picture is None}


def _bar(items: Iterable[Item], what: str, count: int) -> Iterable[Item]:
    """The items, with a bar where they take a while; of several ranks the first has it."""
    other = os.environ.get("RANK", "0") != "0"
    return tqdm(items, what, count, unit="picture", delay=3, mininterval=3, disable=other)


def batches(
    stream: ImageStream,
    batch_size: int,
    *,
    start: int = 0,
    count: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """One rank's batches from global position `start` on (`count` of them; None: no end).

    The number of worker processes changes the speed and nothing else.
    """

    def positions() -> Iterator[range]:
        for number in itertools.count() if count is None else range(count):
            first = start + number * world_size * batch_size
            yield rank_positions(first, batch_size, rank, world_size)

    loader = DataLoader(
        Told(stream) if num_workers else stream,
        batch_sampler=_Positions(positions()),
        collate_fn=Collate(stream.collate) if num_workers else stream.collate,
        num_workers=num_workers,
        worker_init_fn=ignore_signals,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise the loader draws from the training's random state
    )
    source = iter(loader)  # now, as the workers start with it
    return told_by_workers(source) if num_workers else source


class _Positions:
    """A batch sampler over an iterator, which may be endless."""

    def __init__(self, positions: Iterator[range]) -> None:
        self.positions = positions

    def __iter__(self) -> Iterator[range]:
        return self.positions


def all_skipped(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The files skipped on the way to any of the samples, each once."""
    return tuple(dict.fromkeys(name for sample in samples for name in sample.skipped))


def channels_first(pixels: np.ndarray) -> Tensor:
    """A copy (C, H, W) of an array (H, W, C)."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def to_model_range(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 pixels to floats in [-1, 1] on the device, in torch's default dtype."""
    pixels = images.to(device, non_blocking=True).to(torch.get_default_dtype())
    return pixels.div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Tensor:
    """Floats, nominally in [-1, 1], to uint8 pixels on the CPU; what is beyond is clipped."""
    return images.float().clamp(-1, 1).add(1.0).mul(127.5).round().to("cpu", torch.uint8)
