"""The codes that stage 2 trains on: encoded from pictures on the fly, or read from a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vqgan_fast.data import (
    ImageStream,
    SampleOrder,
    batches,
    codebook_fingerprint,
    held_out_crops,
    list_images,
    rank_positions,
    read_codes,
    to_model_range,
)
from vqgan_fast.data.order import CODE_DROPOUT, counter_generator
from vqgan_fast.models import VQGAN

from .check_config import check_divisible
from .config import ConfigError, TransformerDataConfig
from .distributed import Ranks
from .training_pictures import training_pictures


class CodeBatch(NamedTuple):
    """`codes` int64 (B, h, w), their B global `positions`, and unreadable files `skipped`."""

    codes: Tensor
    positions: list[int]
    skipped: tuple[str, ...]


class CodeSource(Protocol):
    """Where codes come from."""

    grid: tuple[int, int]  # (h, w)
    files: list  # the pictures behind the codes, as far as they are read here

    def batches(self, start: int) -> Iterator[CodeBatch]:
        """This rank's batches on its device, from global position `start` on, without end."""


class PictureCodes:
    """Crops of pictures, encoded by the first stage as they come; arguments of `open_codes`."""

    def __init__(self, data: TransformerDataConfig, vqgan: VQGAN, seed: int, ranks: Ranks) -> None:
        check_divisible(data.size, vqgan.downsampling_factor)
        self.data, self.vqgan, self.ranks = data, vqgan, ranks
        side = data.size // vqgan.downsampling_factor
        self.grid = (side, side)
        self.files = training_pictures(data, ranks)
        self.stream = ImageStream(
            self.files, size=data.size, resize=data.resize, crop=data.crop, flip=data.flip,
            region=data.train_region, seed=seed, cache=data.cache,
        )  # fmt: skip

    def batches(self, start: int) -> Iterator[CodeBatch]:
        source = batches(
            self.stream, self.data.batch_size, start=start, rank=self.ranks.rank,
            world_size=self.ranks.world_size, pin_memory=self.ranks.on_cuda,
            num_workers=0 if self.data.cache else self.data.num_workers,
        )  # fmt: skip
        for images, positions, skipped in source:
            codes = encode(self.vqgan, images, self.ranks)
            yield CodeBatch(codes, positions, skipped)


class FileCodes:
    """Codes that `vqgan-fast tokenize` wrote; arguments of `open_codes`."""

    def __init__(self, data: TransformerDataConfig, vqgan: VQGAN, seed: int, ranks: Ranks) -> None:
        codes = read_codes(data.codes)
        if codes.codebook != codebook_fingerprint(vqgan.quantize.codebook):
            raise ConfigError(
                f"data.codes = {data.codes} was written with another VQGAN than first_stage: the "
                "codebooks differ; run `vqgan-fast tokenize` with this one"
            )
        self.data, self.ranks = data, ranks
        self.codes = codes
        count, *grid = codes.shape
        self.grid = tuple(grid)
        self.files = []
        self.order = SampleOrder(count, seed)

    def batches(self, start: int) -> Iterator[CodeBatch]:
        size, ranks = self.data.batch_size, self.ranks
        for number in itertools.count():
            first = start + number * size * ranks.world_size
            positions = list(rank_positions(first, size, ranks.rank, ranks.world_size))
            rows = [self.order.locate(position)[1] for position in positions]
            codes = self.codes.rows(rows).to(ranks.device, torch.int64)
            yield CodeBatch(codes, positions, ())


def open_codes(data: TransformerDataConfig, vqgan: VQGAN, seed: int, ranks: Ranks) -> CodeSource:
    """The source that the configuration names.

    Args:
        vqgan: encodes pictures; a file's codes must be of its codebook.
        seed: of order and augmentation.

    Raises:
        ConfigError: pictures or codes do not fit the VQGAN.
        DataError: the pictures or the file cannot be read.
    """
    kind = PictureCodes if data.codes is None else FileCodes
    return kind(data, vqgan, seed, ranks)


def held_out_codes(
    data: TransformerDataConfig, vqgan: VQGAN, grid: tuple[int, int], ranks: Ranks
) -> Tensor | None:
    """Codes (V, h, w) int64 of the held-out pictures, None where the configuration names none.

    Raises:
        ConfigError: their crops have another number of codes than the training's.
    """
    if data.validation is None:
        return None
    side = data.size // vqgan.downsampling_factor
    if grid != (side, side):
        raise ConfigError(
            f"data.size = {data.size} gives held-out pictures {side} x {side} codes, the codes in "
            f"data.codes are {grid[0]} x {grid[1]}"
        )
    images, _ = held_out_crops(
        list_images(data.validation), size=data.size, resize=data.resize,
        region=data.validation_region, limit=data.validation_crops,
    )  # fmt: skip
    return torch.cat([encode(vqgan, part, ranks) for part in images.split(data.batch_size)])


@torch.no_grad()
def encode(vqgan: VQGAN, images: Tensor, ranks: Ranks) -> Tensor:
    """Codes (B, h, w) int64 of uint8 pictures (B, 3, S, S), always in full precision."""
    return vqgan.encode_indices(to_model_range(images, ranks.device))


def replace_codes(
    codes: Tensor, positions: list[int], pkeep: float, vocab_size: int, seed: int
) -> Tensor:
    """Keep each code with probability pkeep, put a random token in the others' place.

    What happens to a sample depends on (seed, its global position) and nothing else.

    Args:
        codes: (B, h, w) int64.
        positions: the B global positions.
    """
    if pkeep == 1:
        return codes
    shape = codes.shape[1:]
    keep, random = [], []
    for position in positions:
        generator = counter_generator(seed, CODE_DROPOUT, 0, position)
        keep.append(generator.random(shape) < pkeep)
        random.append(generator.integers(vocab_size, size=shape))
    kept = torch.from_numpy(np.stack(keep)).to(codes.device)
    return torch.where(kept, codes, torch.from_numpy(np.stack(random)).to(codes.device))
