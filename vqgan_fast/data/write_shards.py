"""Writing pictures into tar shards that every tool for such files reads."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vqgan_fast.models.pretrained import replacing

from .images import DataError, list_images, listed, reason_of
from .naming import naming
from .shard_index import index_shard

SHARD_BYTES = 2**28  # few enough files for a file system, small enough to copy one by one


class Entry(NamedTuple):
    """A picture and its name in the shard."""

    name: str
    file: Path


def shard_paths(output: Path, count: int) -> list[Path]:
    """`count` files: OUTPUT-000000.tar, ..."""
    return [output.with_name(f"{output.name}-{number:06d}.tar") for number in range(count)]


def plan_shards(pictures: str | os.PathLike[str], count: int | None = None) -> list[list[Entry]]:
    """What goes into each shard: about the same number of bytes, in the order of `list_images`.

    Args:
        pictures: a folder, whose paths below it become the names, or a .txt list, whose pictures
            are numbered in front of their name.
        count: of shards; None makes them about SHARD_BYTES long.

    Raises:
        DataError: there is no picture, or there are fewer than shards, or some are not there.
    """
    folder = Path(pictures)
    files = list_images(folder)
    if folder.is_dir():
        entries = [Entry(file.relative_to(folder).as_posix(), file) for file in files]
    else:
        entries = [Entry(f"{i:09d}_{file.name}", file) for i, file in enumerate(files)]
    sizes = np.array(_sizes(files))
    total = int(sizes.sum())
    if count is None:
        count = max(1, min(len(files), round(total / SHARD_BYTES)))
    if not 1 <= count <= len(files):
        raise DataError(f"count must lie between 1 and the {len(files)} pictures, got {count}")
    # Each picture goes where its middle lies; then every shard gets at least one.
    middles = sizes.cumsum() - sizes / 2
    numbers = np.arange(1, count)
    cuts = np.searchsorted(middles, total * numbers / count)
    cuts = np.maximum.accumulate((cuts - numbers).clip(0, len(files) - count)) + numbers
    bounds = [0, *cuts.tolist(), len(files)]
    return [entries[a:b] for a, b in itertools.pairwise(bounds)]


def _sizes(files: Sequence[Path]) -> list[int]:
    """Bytes of each file. A shard cannot hold one that is not there, as training on the files
    themselves can skip it and name it, and one left out would move all that come behind it."""
    sizes, problems = [], []
    for file in files:
        try:
            sizes.append(file.stat().st_size)
        except OSError as error:
            problems.append(f"{file}: {reason_of(error)}")
    if problems:
        raise DataError(
            f"{len(problems)} of the {len(files)} pictures cannot go into a shard; put them back, "
            f"or take them out of the list:{listed(problems)}"
        )
    return sizes


def write_shards(
    plan: Sequence[Sequence[Entry]],
    output: Path,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write OUTPUT-000000.tar, ..., each whole or not at all, and the index of each.

    The same pictures give the same bytes: neither owners nor times are written.

    Args:
        plan: of `plan_shards`.
        progress: told the number of pictures of each shard that is finished.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = shard_paths(output, len(plan))
    for path, entries in zip(paths, plan, strict=True):
        with naming(path), replacing(path) as unfinished, _new_tar(unfinished) as tar:
            for entry in entries:
                _add(tar, entry)
        index_shard(path)
        if progress is not None:
            progress(len(entries))
    return paths


def _new_tar(path: Path) -> tarfile.TarFile:
    return tarfile.open(path, "w", format=tarfile.PAX_FORMAT)


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    with naming(entry.file, "read"):
        content = entry.file.read_bytes()
    header = tarfile.TarInfo(entry.name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
