"""Checkpoints: folders written by torch.distributed.checkpoint that are there whole or not at all.

    checkpoints/step_000100/
        .metadata, *.distcp   tensors: models, optimizers, averages, codebook counts, random states
        state.json            numbers and words
        manifest.json         size and CRC-32 of every other file, written last

A checkpoint is written into a folder of another name, which is renamed when all is on disk
(`checkpoint_writer`). Before one is read its manifest is compared with its files.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from vqgan_fast.data.images import may_pass

from .config import ConfigError
from .distributed import Ranks
from .safe_reader import SafeReader

# For good: the library says it in threads, where a filter cannot be set for a while.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")

STATE, MANIFEST = "state.json", "manifest.json"
PREFIX, UNFINISHED, DAMAGED = "step_", "unfinished_step_", "damaged_step_"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, None if there is none at all.

    One that is not is set aside under another name, and `warn` is told. To be called by one rank.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in newest_first(folder):
        damage = find_damage(path)
        if damage is None:
            for bad, reason in damaged:
                aside = _free_name(bad.with_name(bad.name.replace(PREFIX, DAMAGED, 1)))
                bad.rename(aside)
                warn(
                    f"the checkpoint {bad} is damaged ({reason}); it is set aside as {aside.name} "
                    f"and training goes on from the previous one, {path.name}"
                )
            return path
        damaged.append((path, damage))
    if damaged:
        listed = "; ".join(f"{path}: {reason}" for path, reason in damaged)
        raise CheckpointError(f"no checkpoint can be resumed from, all are damaged: {listed}")
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if nothing is.

    Raises:
        OSError: they cannot be read now, which says nothing of what is in them.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if lacking := _lacking(manifest):
            return f"{MANIFEST} does not list {lacking}"
        for name, expected in manifest.items():
            file = path / name
            status = file.stat()  # newer is_file() says False to every error
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is missing"
            size = status.st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes of {expected['bytes']}"
            if _crc32(file) != expected["crc32"]:
                return f"{name} does not have its checksum"
        json.loads((path / STATE).read_text())
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except PermissionError:  # which the user can put right
        raise
    except OSError as error:  # a file where a folder should be, a folder for a file
        if may_pass(error):
            raise
        return f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MANIFEST} or {STATE} cannot be read"
    return None


def _lacking(manifest: Mapping[str, Any]) -> str | None:
    """What every checkpoint has and this manifest does not name."""
    for name in (".metadata", STATE):
        if name not in manifest:
            return name
    return None if any(name.endswith(".distcp") for name in manifest) else "a file of tensors"


def read_state(path: Path) -> dict[str, Any]:
    """The numbers and words of a checkpoint."""
    return json.loads((path / STATE).read_text())


def load_tensors(
    path: Path, tensors: Mapping[str, Tensor], ranks: Ranks, unread: tuple[str, ...] = ()
) -> None:
    """Read a checkpoint into tensors, in place; every rank calls it.

    Args:
        unread: beginnings of names that may be in the checkpoint and not in `tensors`.

    Raises:
        ConfigError: a tensor is not in the checkpoint, or has another shape there, or the
            checkpoint holds others: a model that lacks them would be written in their place.
        CheckpointError: the table of contents holds something that no checkpoint needs.
    """
    reader = SafeReader(path)
    try:
        saved = reader.read_metadata().state_dict_metadata
    except (pickle.UnpicklingError, AttributeError, EOFError, TypeError) as error:
        raise CheckpointError(f"{path / '.metadata'} cannot be trusted: {error}") from error
    for name, tensor in tensors.items():
        if name not in saved:
            raise ConfigError(
                f"the checkpoint {path} has no {name}: it belongs to another configuration"
            )
        if saved[name].size != tensor.shape:
            raise ConfigError(
                f"the checkpoint {path} belongs to another configuration: {name} is "
                f"{tuple(saved[name].size)} there and {tuple(tensor.shape)} here"
            )
    left = [name for name in saved if name not in tensors and not name.startswith(unread)]
    if left:
        more = f" and {len(left) - 1} more tensors" if len(left) > 1 else ""
        raise ConfigError(
            f"the checkpoint {path} holds {left[0]}{more} that this configuration has not: it "
            "belongs to another one"
        )
    try:
        dcp.load(dict(tensors), storage_reader=reader, no_dist=ranks.world_size == 1)
    except (CheckpointException, pickle.UnpicklingError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error


def step_of(path: Path) -> int:
    """The number of finished steps in a checkpoint's name."""
    return int(path.name.removeprefix(PREFIX))


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder that have their name, whole or not."""
    found = [path for path in folder.glob(f"{PREFIX}*") if _is_number(path.name[len(PREFIX) :])]
    return sorted(found, key=step_of, reverse=True)


def _is_number(word: str) -> bool:
    """Whether these are digits as checkpoints are numbered: the digits of int() are more."""
    return word.isascii() and word.isdecimal()


def _crc32(file: Path) -> int:
    value = 0
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def describe_file(file: Path) -> dict[str, int]:
    """What the manifest says of a file."""
    return {"bytes": file.stat().st_size, "crc32": _crc32(file)}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file and see it on the disk."""
    with open(file, "w", encoding="utf-8") as opened:
        json.dump(content, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's names themselves durable (it can be opened for that on POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free
