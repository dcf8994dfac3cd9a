"""Telling lists of pictures, and models, apart by a few characters."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .images import PictureFile
from .maps import CropMap
from .places import place_of
from .shards import ShardedPictures


def names_fingerprint(names: Iterable[str]) -> str:
    """Eight hexadecimal digits of names and their order."""
    crc = 0
    for name in names:
        crc = zlib.crc32(name.encode(errors="surrogateescape") + b"\0", crc)
    return f"{crc:08x}"


def pictures_fingerprint(files: Sequence[PictureFile]) -> str:
    """How many pictures, and a fingerprint of their names without folders: they may move."""
    sharded = isinstance(files, ShardedPictures)
    names = files.names() if sharded else (place_of(file).name for file in files)
    return f"{len(files)} pictures, {names_fingerprint(names)}"


def data_fingerprint(files: Sequence[PictureFile], kinds: Sequence[CropMap]) -> str:
    """That of pictures, and of what goes with each of them by the kinds of maps."""
    told = [pictures_fingerprint(files)]
    for kind in kinds:
        if content := list(kind.content()):
            told.append(f"{type(kind).__name__} {names_fingerprint(content)}")
    return ", ".join(told)


def weights_fingerprint(module: nn.Module) -> str:
    """Eight hexadecimal digits of a module's parameters and buffers."""
    crc = 0
    for tensor in module.state_dict().values():
        crc = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"
