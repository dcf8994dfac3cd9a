"""The crops that stage 1 learns to encode: of pictures, or of maps that go with pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vqgan_fast.data import (
    Batch,
    Coordinates,
    CropMap,
    Depth,
    Edges,
    ImageStream,
    LowResolution,
    PairedBatch,
    PairedStream,
    Segmentation,
    ShardedPictures,
    held_out_crops,
    held_out_pairs,
    list_images,
    list_shards,
    pair_by_name,
    pair_with_keypoints,
    to_model_range,
    to_pixels,
)
from vqgan_fast.data.images import LeftOutWarning, PictureFile

from .check_data_config import FILE_MAPS
from .config import ConfigError, DataConfig, MapConfig
from .distributed import Ranks
from .training_pictures import training_pictures


class TrainingCrops:
    """An endless stream of crops and, if the configuration names pictures for it, held-out ones.

    `raw` below are crops as the stream gives them, for `model_input` to turn into floats.

    Args:
        data: the configuration.
        seed: of order and augmentation.

    Attributes:
        stream: for `vqgan_fast.data.batches`.
        kind: the kind of map; None for pictures.
        held_out: raw (V, C, S, S), None where none are named.

    Raises:
        ConfigError, DataError: what is asked for is not there, or does not fit.
    """

    def __init__(self, data: DataConfig, seed: int, ranks: Ranks) -> None:
        self.kind: CropMap | None = None
        settings = {"size": data.size, "resize": data.resize}
        training = {
            **settings, "crop": data.crop, "flip": data.flip, "region": data.train_region,
            "seed": seed, "cache": data.cache,
        }  # fmt: skip
        if data.maps.kind is None:
            self.stream = ImageStream(training_pictures(data, ranks), **training)
            self.held_out = load_held_out(data)
            return
        pictures = training_pictures(data, ranks, [data.maps])
        files, self.kind = open_maps(data.train, data.maps.folder, data.maps, pictures)
        self.stream = PairedStream(files, [self.kind], **training)
        self.held_out = None
        if data.validation is not None:
            folder = data.maps.validation_folder
            pictures = list_images(data.validation)
            files, kind = open_maps(data.validation, folder, data.maps, pictures)
            self.held_out = held_out_pairs(
                files[: data.validation_crops], [kind], **settings, center=True,
                region=data.validation_region,
            ).maps[0]  # fmt: skip

    @property
    def kinds(self) -> list[CropMap]:
        """Of maps: `kind`, or none."""
        return [] if self.kind is None else [self.kind]

    @property
    def channels(self) -> int:
        """Channels of `model_input`'s result."""
        return 3 if self.kind is None else self.kind.channels

    def raw(self, batch: Batch | PairedBatch) -> Tensor:
        """What of a batch is learned."""
        return batch.images if self.kind is None else batch.maps[0]

    def first(self, count: int) -> Tensor:
        """The first raw crops of the stream: the same ones in every grid of a run."""
        return self.raw(self.stream.collate([self.stream[number] for number in range(count)]))

    def model_input(self, raw: Tensor, device: torch.device | str) -> Tensor:
        """Floats (B, channels, S, S) on the device: in [-1, 1], or one-hot labels."""
        return to_model_range(raw, device) if self.kind is None else self.kind.to_model(raw, device)

    def draw(self, x: Tensor) -> Tensor:
        """uint8 pictures (B, 3, S, S) of what the model takes or gives."""
        return to_pixels(x) if self.kind is None else self.kind.draw(x)


def open_maps(
    pictures: str | None,
    folder: str | None,
    config: MapConfig,
    files: Sequence[PictureFile],
    section: str = "data.maps",
) -> tuple[Sequence[PictureFile], CropMap]:
    """Pictures and the kind of map that goes with them.

    Args:
        pictures: as `data.train`; None for pictures in shards.
        folder: of the maps, or a pattern of shards of them; the annotation file of keypoints.
        files: the pictures to take of them.
        section: where in the configuration `config` stands.

    Raises:
        ConfigError, DataError: as TrainingCrops.
    """
    if config.kind in FILE_MAPS:
        root = None if pictures is None else Path(pictures)
        if root is not None and not root.is_dir():
            raise ConfigError(
                f"{section}.kind = {config.kind} finds maps by the names below a folder of "
                f"pictures, got {pictures}"
            )
        tar = folder.endswith(".tar")
        maps = ShardedPictures(list_shards(folder)) if tar else Path(folder)
        pairs = pair_by_name(files, root, maps, unpaired=config.unpaired)
        _tell(pairs.left_out)
        return pairs.pictures, make_map(config, pairs.maps)
    if config.kind == "keypoints":
        posed = pair_with_keypoints(files, Path(folder), unpaired=config.unpaired)
        _tell(posed.left_out)
        return posed.pictures, posed.maps
    return files, make_map(config, files)


def _tell(left_out: Sequence[str]) -> None:
    if left_out:
        listed = "\n  ".join(left_out)
        told = f"{len(left_out)} pictures left out:\n  {listed}"
        warnings.warn(told, LeftOutWarning, stacklevel=3)


def make_map(config: MapConfig, files: Sequence[PictureFile]) -> CropMap:
    """A kind of map that is no pose.

    Args:
        files: the maps, of kinds that are files.
    """
    if config.kind == "segmentation":
        return Segmentation(files, config.n_labels, config.shift)
    if config.kind == "depth":
        return Depth(files)
    if config.kind == "edges":
        return Edges(config.sigma)
    if config.kind == "low_resolution":
        return LowResolution(config.factor)
    return Coordinates()


def load_held_out(data: DataConfig) -> Tensor | None:
    """Held-out crops of pictures, uint8 (V, 3, S, S), None where the configuration names none."""
    if data.validation is None:
        return None
    return held_out_crops(
        list_images(data.validation), size=data.size, resize=data.resize,
        region=data.validation_region, limit=data.validation_crops,
    ).images  # fmt: skip
