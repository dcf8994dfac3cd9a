"""What a transformer is conditioned on: maps of its pictures, and the stage that encodes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vqgan_fast.data import (
    ClassLabel,
    CropMap,
    HeldOutPairs,
    ShardedPictures,
    class_labels,
    class_names,
    held_out_pairs,
    list_images,
    list_shards,
)
from vqgan_fast.data.images import PictureFile
from vqgan_fast.data.order import CONDITION_DROPOUT, counter_generator
from vqgan_fast.models import (
    VQGAN,
    CodesCondition,
    CombinedCondition,
    CoordinateCondition,
    LabelCondition,
    SOSCondition,
)
from vqgan_fast.models.conditions import Condition, Tokens, map_tokens

from .config import ConditionPart, ConfigError, TransformerRun
from .first_stage import load_first_stage
from .training_crops import open_maps

MAP_OPTIONS = {
    "segmentation": ("n_labels", "shift"),
    "edges": ("sigma",),
    "low_resolution": ("factor",),
}


class Conditioning:
    """The condition of a run of stage 2.

    Args:
        config: the run.
        vqgan: its first stage.
        stage: of a trained model; None builds a new one.
        pictures: those to train on, where they are opened already.

    Attributes:
        stage: makes tokens of what the maps of a crop hold, see `vqgan_fast.models.conditions`.

    Raises:
        ConfigError, DataError: a VQGAN that does not fit, class folders that are none.
    """

    def __init__(
        self,
        config: TransformerRun,
        vqgan: VQGAN,
        stage: Condition | None = None,
        pictures: Sequence[PictureFile] | None = None,
    ) -> None:
        self.data, self.parts = config.data, config.condition.parts or [config.condition]
        self.several = bool(config.condition.parts)
        self.classes: list[str] = []
        self.pictures = pictures
        if any(part.kind == "label" for part in self.parts):
            sharded = config.data.shards is not None
            self.classes = _learned_classes(stage) or class_names(
                self._training_pictures() if sharded else _folder(config.data.train)
            )
        if stage is not None:
            self.stage = stage
            return
        stages = [self._stage(part, vqgan, number) for number, part in enumerate(self.parts)]
        self.stage = CombinedCondition(stages) if self.several else stages[0]

    def open(
        self, *, held_out: bool, limit: int | None = None
    ) -> tuple[Sequence[PictureFile], list[CropMap]]:
        """Pictures, without those that have no map and may be skipped, and their kinds of maps.

        Args:
            held_out: those of data.validation, else those to train on.
            limit: take the first so many of them; None takes all.
        """
        pictures = self.data.validation if held_out else self.data.train
        files = list_images(pictures) if held_out else self._training_pictures()
        files = files if limit is None else files[:limit]
        parts = [part for part in self.parts if part.kind != "sos"]
        while True:
            before, kinds = len(files), []
            for part in parts:
                files, kind = self._open(part, pictures, files, held_out)
                kinds.append(kind)
            if len(files) == before or len(parts) == 1:
                return files, kinds
            # A part left pictures out, which those before it still have: open all anew.

    def held_out(self, limit: int | None = None) -> HeldOutPairs:
        """The crops of data.validation, or of its first pictures, with their maps."""
        data = self.data
        files, kinds = self.open(held_out=True, limit=limit)
        return held_out_pairs(
            files, kinds, size=data.size, resize=data.resize, region=data.validation_region,
            limit=data.validation_crops,
        )  # fmt: skip

    def tokens(
        self,
        kinds: Sequence[CropMap],
        maps: Sequence[Tensor],
        count: int,
        device: torch.device | str,
    ) -> Tokens:
        """The tokens of `count` crops, of their maps (count, C, S, S) as `kinds` give them."""
        inputs = [kind.to_model(part, device) for kind, part in zip(kinds, maps, strict=True)]
        return self.stage(count, device, inputs if self.several else (inputs or [None])[0])

    def _training_pictures(self) -> Sequence[PictureFile]:
        if self.pictures is None:
            data = self.data
            sharded = data.shards is not None
            self.pictures = (
                ShardedPictures(list_shards(data.shards)) if sharded else list_images(data.train)
            )
        return self.pictures

    def _open(
        self,
        part: ConditionPart,
        pictures: str | None,
        files: Sequence[PictureFile],
        held_out: bool,
    ) -> tuple[Sequence[PictureFile], CropMap]:
        if part.kind == "label":
            folder = None if pictures is None else _folder(pictures)
            labels = class_labels(files, folder, self.classes)
            return files, ClassLabel(self.classes, labels)
        folder = part.validation_folder if held_out else part.folder
        return open_maps(pictures, folder, part, files, "condition")

    def _stage(self, part: ConditionPart, vqgan: VQGAN, number: int) -> Condition:
        own = None if part.vqgan is None else load_first_stage(part.vqgan, "condition.vqgan")
        folder = f"condition_{number}" if self.several else "condition"
        return condition_stage(part, vqgan, own, self.classes, folder)


def condition_stage(
    part: ConditionPart, vqgan: VQGAN, own: VQGAN | None, classes: Sequence[str], folder: str
) -> Condition:
    """The stage of one condition.

    Args:
        vqgan: the first stage.
        own: the condition's own VQGAN, for maps; None takes the first stage.
        classes: names, for labels.
        folder: of the model's, where `own` is saved.

    Raises:
        ConfigError: a VQGAN does not fit.
    """
    if part.kind == "sos":
        return SOSCondition()
    if part.kind == "label":
        return LabelCondition(len(classes), classes)
    if part.kind == "coordinates":
        return CoordinateCondition(part.n_tokens, vqgan.downsampling_factor)
    maps = {"kind": part.kind}
    maps |= {name: getattr(part, name) for name in MAP_OPTIONS.get(part.kind, ())}
    if own is None:
        return CodesCondition(_fitting(vqgan, part, vqgan, "first_stage"), maps, folder=None)
    return CodesCondition(_fitting(own, part, vqgan, "condition.vqgan"), maps, folder)


def drop_some(
    tokens: Tokens, positions: list[int], probability: float, null_token: int | None, seed: int
) -> Tokens:
    """Put the null token in the place of the whole condition of some samples.

    What happens to a sample depends on (seed, its global position) and nothing else.

    Args:
        tokens: of the samples at the `positions`.
        null_token: None with probability 0.
    """
    if probability == 0:
        return tokens
    draws = [
        counter_generator(seed, CONDITION_DROPOUT, 0, position).random() for position in positions
    ]
    dropped = torch.tensor([draw < probability for draw in draws])

    def drop(part: Tensor) -> Tensor:
        rows = dropped.to(part.device).view(-1, *[1] * (part.ndim - 1))
        return torch.where(rows, null_token, part)

    return map_tokens(drop, tokens)


def shuffled(tokens: Tokens, seed: int = 0) -> Tokens:
    """Each row the tokens of another picture: the rows go round in one random cycle."""
    rows = tokens[0] if isinstance(tokens, tuple) else tokens
    cycle = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(cycle)
    other[cycle] = cycle.roll(1)
    return map_tokens(lambda part: part[other.to(part.device)], tokens)


def _learned_classes(stage: Condition | None) -> list[str]:
    """The names of the classes that a trained model knows; none if it has no names."""
    parts = [] if stage is None else getattr(stage, "parts", [stage])
    return next((part.classes for part in parts if getattr(part, "classes", None)), [])


def _folder(pictures: str) -> Path:
    folder = Path(pictures)
    if not folder.is_dir():
        raise ConfigError(
            f"condition.kind = label takes classes from the folders in a folder of pictures, got "
            f"{pictures}"
        )
    return folder


def _fitting(own: VQGAN, part: ConditionPart, first_stage: VQGAN, key: str) -> VQGAN:
    channels = {"segmentation": part.n_labels, "depth": 1}.get(part.kind, 3)
    if own.config["in_channels"] != channels:
        raise ConfigError(
            f"{key} must be a VQGAN of {channels} channels, those of {part.kind} "
            f"maps, got one of {own.config['in_channels']}"
        )
    if own.downsampling_factor != first_stage.downsampling_factor:
        raise ConfigError(
            f"{key} must have the first stage's downsampling factor f = "
            f"{first_stage.downsampling_factor}, so that each code has its condition, got f = "
            f"{own.downsampling_factor}"
        )
    return own
