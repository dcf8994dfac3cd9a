"""Reading a configuration whose pictures and first stage need not be there yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from vqgan_fast.data import class_names
from vqgan_fast.data.code_folder import read_grid
from vqgan_fast.models import ColourCodes
from vqgan_fast.train import TransformerRun, VQGANRun, load_config
from vqgan_fast.train.check_config import check_config
from vqgan_fast.train.check_data_config import PAIRED_MAPS
from vqgan_fast.train.check_sizes import (
    check_discriminator,
    check_divisible,
    check_perceptual,
    codes_beside_size,
)
from vqgan_fast.train.config import (
    ConfigError,
    DataConfig,
    MapConfig,
    ModelConfig,
    TransformerDataConfig,
)
from vqgan_fast.train.first_stage import load_first_stage

HERE = "."  # a path that exists, where a run would need one
CLASSES = 1000  # where the folders of classes are not there yet: ImageNet's


@dataclass(frozen=True)
class FirstStages:
    """What a run of stage 2 finds ready: the sizes of its VQGANs, and how many classes there are.

    `conditions`: of each part of the condition its own VQGAN; None is the first stage, or none.
    `grid`: of codes that are encoded already; None is that of data.size.
    `about_codes`: which grid it is with data.codes, for the user.
    """

    codes: ModelConfig
    conditions: tuple[ModelConfig | None, ...] = (None,)
    classes: int = CLASSES
    grid: tuple[int, int] | None = None
    about_codes: str | None = None


def load_plan(
    path: str, overrides: Iterable[str] = ()
) -> tuple[VQGANRun | TransformerRun, FirstStages | None]:
    """A configuration with sound values, and for stage 2 what it builds on.

    `first_stage` and the `vqgan` of a condition may be a run's folder or the YAML file of a stage-1
    configuration; without a `first_stage`, the paper's VQGAN is taken.

    Raises:
        ConfigError, DataError: a value cannot be used, or the codes cannot be read.
    """
    config = load_config(path, overrides, check=False)
    encoded = isinstance(config, TransformerRun) and config.data.codes is not None
    sound = replace(config, run_dir=HERE)
    sound.data = replace(
        config.data, train=None if encoded else HERE, shards=None, validation=None,
        maps=_without_paths(config.data.maps), **({"codes": HERE} if encoded else {}),
    )  # fmt: skip
    if isinstance(config, VQGANRun):
        check_config(sound)
        check_discriminator(sound)
        check_perceptual(sound)
        return sound, None
    first_stage = _sizes(config.first_stage, "first_stage")
    sound.first_stage = HERE
    condition = config.condition
    sound.condition = replace(
        _without_paths(condition), parts=[_without_paths(part) for part in condition.parts]
    )
    check_config(sound)
    grid, about_codes = _grid(config.data, 2 ** (len(first_stage.ch_mult) - 1))
    parts = condition.parts or [condition]
    own = [_sizes(part.vqgan, "condition.vqgan") if part.vqgan else None for part in parts]
    labelled = any(part.kind == "label" for part in parts)
    classes = _classes(config.data) if labelled else CLASSES
    return sound, FirstStages(first_stage, tuple(own), classes, grid, about_codes)


def _grid(data: TransformerDataConfig, factor: int) -> tuple[tuple[int, int] | None, str | None]:
    """`grid` and `about_codes` of FirstStages; of data.codes that are not there yet no grid."""
    if data.codes is not None and Path(data.codes).exists():
        grid = read_grid(data.codes)
        unused = codes_beside_size(data, grid, factor)
        return grid, unused or f"{grid[0]} x {grid[1]} codes are those of data.codes = {data.codes}"
    check_divisible(data.size, factor)
    if data.codes is None:
        return None, None
    side = data.size // factor
    return None, (
        f"data.codes = {data.codes} is not there yet: {side} x {side} codes are assumed, those of "
        f"data.size = {data.size}"
    )


def _without_paths(maps: MapConfig) -> MapConfig:
    """The same maps, as if they were there."""
    paths = {"folder": HERE if maps.kind in PAIRED_MAPS else maps.folder, "validation_folder": None}
    if getattr(maps, "vqgan", None) is not None:
        paths["vqgan"] = HERE
    return replace(maps, **paths)


def _classes(data: DataConfig) -> int:
    """How many classes the training pictures have, CLASSES if they are not here."""
    folder = None if data.train is None else Path(data.train)
    return len(class_names(folder)) if folder is not None and folder.is_dir() else CLASSES


def _sizes(path: str | None, key: str) -> ModelConfig:
    if path is None:
        return ModelConfig(**VQGANRun().vqgan_arguments())
    if path.endswith((".yaml", ".yml")):
        config = load_config(path, check=False)
        if not isinstance(config, VQGANRun):
            raise ConfigError(f"{key} = {path} must be of stage: vqgan, got {config.stage}")
        return ModelConfig(**config.vqgan_arguments())
    first_stage = load_first_stage(path, key)
    sizes = first_stage.config
    if isinstance(first_stage, ColourCodes):  # has no network: the smallest one of f1 in its place
        return ModelConfig(
            **sizes, embed_dim=4, z_channels=4,
            ch=32, ch_mult=[1], num_res_blocks=1, attn_resolutions=[],
        )  # fmt: skip
    known = {entry.name for entry in fields(ModelConfig)}
    return ModelConfig(**{name: value for name, value in sizes.items() if name in known})
