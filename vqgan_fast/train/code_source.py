"""The codes that stage 2 trains on: encoded from pictures on the fly, or read from a file."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqgan_fast.data import (
    CropMap,
    PairedStream,
    SampleOrder,
    batches,
    codebook_fingerprint,
    data_fingerprint,
    rank_positions,
    read_codes,
    to_model_range,
)
from vqgan_fast.data.images import PictureFile
from vqgan_fast.data.order import CODE_DROPOUT, counter_generator
from vqgan_fast.models import VQGAN
from vqgan_fast.models.conditions import Tokens, map_tokens

from .check_sizes import check_divisible, codes_beside_size
from .conditioning import Conditioning
from .config import ConfigError, TransformerDataConfig
from .distributed import Ranks
from .run_log import say


class CodeBatch(NamedTuple):
    """`codes` int64 (B, h, w), the tokens of their `condition`, their B global `positions`, and
    unreadable files `skipped`."""

    codes: Tensor
    condition: Tokens
    positions: list[int]
    skipped: tuple[str, ...]


SHOWN = 8  # held-out pictures in a grid


class CodeSource(ABC):
    """Where codes come from.

    Args:
        data: names pictures, or a file of codes.
        vqgan: encodes pictures; a file's codes must be of its codebook.
        conditioning: what stands before the codes.
        seed: of order and augmentation.

    Attributes:
        grid: (h, w) of each picture's codes.
        files: the pictures behind the codes, as far as they are read here.
        kinds: of maps that go with them.
        described: what they are, in words that change with them.

    Raises:
        ConfigError: pictures or codes do not fit the VQGAN.
        DataError: the pictures or the file cannot be read.
    """

    grid: tuple[int, int]
    files: Sequence[PictureFile]
    kinds: Sequence[CropMap]
    described: str

    def __init__(
        self,
        data: TransformerDataConfig,
        vqgan: VQGAN,
        conditioning: Conditioning,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.data, self.vqgan, self.conditioning = data, vqgan, conditioning
        self.seed, self.ranks = seed, ranks
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Looks at what is there, and sets `grid`, `files` and `described`."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[CodeBatch]:
        """This rank's batches on its device, from global position `start` on, without end."""


class PictureCodes(CodeSource):
    """Crops of pictures, encoded by the first stage as they come."""

    def _open(self) -> None:
        data, factor = self.data, self.vqgan.downsampling_factor
        check_divisible(data.size, factor)
        self.grid = (data.size // factor, data.size // factor)
        self.files, self.kinds = self.conditioning.open(held_out=False)
        self.stream = PairedStream(
            self.files, self.kinds, size=data.size, resize=data.resize, crop=data.crop,
            flip=data.flip, region=data.train_region, seed=self.seed, cache=data.cache,
        )  # fmt: skip
        self.described = data_fingerprint(self.files, self.kinds)

    def batches(self, start: int) -> Iterator[CodeBatch]:
        source = batches(
            self.stream, self.data.batch_size, start=start, rank=self.ranks.rank,
            world_size=self.ranks.world_size, pin_memory=self.ranks.on_cuda,
            num_workers=0 if self.data.cache else self.data.num_workers,
        )  # fmt: skip
        for images, maps, positions, skipped in source:
            codes = encode(self.vqgan, images, self.ranks)
            tokens = self.conditioning.tokens(self.kinds, maps, len(codes), codes.device)
            yield CodeBatch(codes, tokens, positions, skipped)


class FileCodes(CodeSource):
    """Codes that `vqgan-fast tokenize` wrote."""

    def _open(self) -> None:
        self.codes = read_codes(self.data.codes)
        if self.codes.codebook != codebook_fingerprint(self.vqgan.quantize.codebook):
            raise ConfigError(
                f"data.codes = {self.data.codes} was written with another VQGAN than first_stage: "
                "the codebooks differ; run `vqgan-fast tokenize` with this one"
            )
        count, *grid = self.codes.shape
        self.grid, self.files, self.kinds = tuple(grid), [], []
        unused = codes_beside_size(self.data, grid, self.vqgan.downsampling_factor)
        if unused is not None and self.ranks.is_main:
            say(f"WARNING: {unused}")
        self.order = SampleOrder(count, self.seed)
        self.described = f"codes of {count} crops with codebook {self.codes.codebook}"

    def batches(self, start: int) -> Iterator[CodeBatch]:
        size, ranks = self.data.batch_size, self.ranks
        for number in itertools.count():
            first = start + number * size * ranks.world_size
            positions = list(rank_positions(first, size, ranks.rank, ranks.world_size))
            rows = [self.order.locate(position)[1] for position in positions]
            codes = self.codes.rows(rows).to(ranks.device, torch.int64)
            tokens = self.conditioning.tokens([], [], len(codes), codes.device)
            yield CodeBatch(codes, tokens, positions, ())


class HeldOutCodes(NamedTuple):
    """`codes` int64 (V, h, w), the tokens of their `condition`, and rows of `drawn` conditions."""

    codes: Tensor
    condition: Tokens
    drawn: list[Tensor]


def held_out_codes(source: CodeSource) -> HeldOutCodes | None:
    """The held-out crops beside a source of training codes; None where there are none to be.

    Raises:
        DataError: pictures or maps cannot be used.
    """
    data, vqgan, conditioning = source.data, source.vqgan, source.conditioning
    ranks = source.ranks
    if data.validation is None:
        return None
    crops = conditioning.held_out()
    codes, tokens = [], []
    for number, part in enumerate(crops.images.split(data.batch_size)):
        first = number * data.batch_size
        maps = [of_a_kind[first : first + len(part)] for of_a_kind in crops.maps]
        codes.append(encode(vqgan, part, ranks))
        tokens.append(conditioning.tokens(crops.kinds, maps, len(part), ranks.device))
    condition = map_tokens(lambda *parts: torch.cat(parts), *tokens)
    return HeldOutCodes(torch.cat(codes), condition, crops.drawn(SHOWN))


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
