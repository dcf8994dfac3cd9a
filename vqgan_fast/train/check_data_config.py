"""The constraints on what a run reads: pictures, their regions, shards and maps."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import ConfigError, DataConfig, MapConfig

# Kinds of maps: of files beside the pictures, in a file of their own, made of the pictures.
FILE_MAPS = ("segmentation", "depth")
PAIRED_MAPS = (*FILE_MAPS, "keypoints")  # not made of the picture itself
MAPS = (*PAIRED_MAPS, "edges", "low_resolution", "coordinates")
CHANNELS = {"depth": 1, "coordinates": 1}  # 3 for the others but segmentation


def check_data(data: DataConfig) -> None:
    if data.resize is not None and data.resize < data.size:
        raise ConfigError(
            f"data.resize must be at least data.size = {data.size} (or null to keep the pictures "
            f"as they are), got {data.resize}"
        )
    for name in ("train_region", "validation_region"):
        region = getattr(data, name)
        if len(region) != 4:
            raise ConfigError(f"data.{name} must be [left, top, right, bottom], got {region}")
        left, top, right, bottom = region
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ConfigError(
                f"data.{name} must be [left, top, right, bottom] with 0 <= left < right <= 1 and "
                f"0 <= top < bottom <= 1, got {region}"
            )
    if data.train is not None and data.train.endswith(".tar"):
        raise ConfigError(f"tar files are given as data.shards, got data.train = {data.train}")
    for name in ("train", "validation"):
        check_exists(f"data.{name}", getattr(data, name))
    _check_shards(data.shards)


def check_maps(data: DataConfig, maps: MapConfig, section: str) -> None:
    if maps.kind == "segmentation" and not 1 <= maps.n_labels <= 256:
        raise ConfigError(f"{section}.n_labels must lie in [1, 256], got {maps.n_labels}")
    if maps.sigma <= 0:
        raise ConfigError(f"{section}.sigma must be above 0, got {maps.sigma}")
    if maps.factor < 2:
        raise ConfigError(f"{section}.factor must be at least 2, got {maps.factor}")
    needed = maps.kind in PAIRED_MAPS
    training = data.train if data.shards is None else data.shards
    for name, pictures in (("folder", training), ("validation_folder", data.validation)):
        key, path = f"{section}.{name}", getattr(maps, name)
        if needed and pictures is not None and path is None:
            raise ConfigError(f"{key} must be given for the {maps.kind} of {pictures}")
        if not needed and path is not None:
            raise ConfigError(f"{key} is for maps that are files, got {path} with {maps.kind}")
        if maps.kind not in FILE_MAPS or not str(path).endswith(".tar"):
            check_exists(key, path)


def check_untouched(section: MapConfig, default: MapConfig, key: str, why: str) -> None:
    """No key of `default` may have another value in a section that is not read."""
    for entry in fields(default):
        value = getattr(section, entry.name)
        if value != getattr(default, entry.name):
            raise ConfigError(f"{key}.{entry.name} must not be given {why}, got {value}")


def check_exists(key: str, path: str | None) -> None:
    if path is not None and not Path(path).exists():
        raise ConfigError(f"{key} points to {path}, which does not exist")


def _check_shards(shards: Any) -> None:
    names = shards if isinstance(shards, list) else [shards]
    if shards is not None and not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"data.shards must be a pattern of tar files, or a list of patterns, got {shards!r}"
        )
    if not names:
        raise ConfigError("data.shards must name at least one tar file, got an empty list")
