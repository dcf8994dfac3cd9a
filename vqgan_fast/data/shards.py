"""Pictures in tar shards, read by index: a sequence like a list of files, in a few large files."""

from __future__ import annotations

import glob
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np

from .images import DataError, PictureFile, list_images, may_pass
from .shard_index import Member, Shard, index_shard

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_READ = 2**16  # bytes at a time: a file system across the network answers few large requests best
_OPEN_SHARDS = 128  # at once in a process: systems allow about 1000 open files


def list_shards(shards: str | os.PathLike[str] | Sequence[str]) -> list[Path]:
    """The tar files that a pattern, or a list of patterns, names.

    A pattern may hold a range of numbers, `photos-{000..127}.tar`, whose files must all be there,
    and the shell's `*`, `?` and `[...]`, whose matches come sorted. The name of a file that
    is there is that file, whatever it holds.

    Raises:
        DataError: no file is named, one is missing, or one is named twice.
    """
    patterns = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
    if not patterns:
        raise DataError("the list of shards is empty; expected tar files, or patterns of them")
    files: list[Path] = []
    for pattern in map(os.fspath, patterns):
        for name in [pattern] if os.path.isfile(pattern) else _numbered(pattern):
            literal = os.path.isfile(name) or not glob.has_magic(name)
            found = [name] if literal else sorted(glob.glob(name, recursive=True))
            if not found:
                raise DataError(f"no shard matches {name}")
            files += map(Path, found)
    for file, count in Counter(files).items():
        if not file.is_file():
            raise DataError(f"there is no shard {file}")
        if count > 1:
            raise DataError(f"the shard {file} is named {count} times")
    return files


def _numbered(pattern: str) -> list[str]:
    """`a-{08..10}` as a-08, a-09, a-10; zeros in front as in the first number."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    if int(last) < int(first):
        raise DataError(f"the range {braces[0]} of {pattern} is empty")
    numbers = range(int(first), int(last) + 1)
    head, tail = pattern[: braces.start()], _numbered(pattern[braces.end() :])
    return [f"{head}{number:0{len(first)}d}{rest}" for number in numbers for rest in tail]


@dataclass(frozen=True)
class ShardMember:
    """One picture of a shard; stands wherever the path of a picture does."""

    shard: Shard
    member: Member

    def __str__(self) -> str:
        return f"{self.shard.path}:{self.member.name}"

    def open(self) -> io.BufferedReader:
        """Its bytes, as a binary file that can be read and searched.

        Raises:
            DataError: the shard cannot be opened, or is not the one that was indexed any more.
                Going on would train on other pictures than before.
            OSError: of those that may pass.
        """
        try:
            opened = _open_shard(self.shard)
            opened.check()
        except OSError as error:
            _open_shard.cache_clear()  # a handle can be stale; the next attempt takes another
            if may_pass(error):
                raise
            raise DataError(
                f"the shard {self.shard.path} cannot be opened ({error.strerror})"
            ) from error
        return io.BufferedReader(_Window(opened, self.member), _READ)


class ShardedPictures(Sequence[ShardMember]):
    """The pictures of shards, in the order of the shards and of their members.

    Holds no open file, so that loader workers can be given it however they are started.

    Args:
        paths: of the tar files.

    Raises:
        DataError: a shard is missing, no plain tar file, cut off, or holds no picture.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shards: list[Shard] = []
        names, places, self._ends = [], [], []
        for path in paths:
            shard, members = index_shard(path)
            self.shards.append(shard)
            # Bytes of one length: millions of str objects would take several times the memory, and
            # again in every worker, whose reference counts write to all their pages.
            names.append(np.array([os.fsencode(member.name) for member in members]))
            places.append(np.array([member[1:] for member in members], dtype=np.int64))
            self._ends.append(len(members) + (self._ends[-1] if self._ends else 0))
        self._names, self._places = names, places

    def __len__(self) -> int:
        return self._ends[-1]

    def names(self) -> Iterator[str]:
        """The names of all pictures in their shards, in order."""
        return (os.fsdecode(name) for of_a_shard in self._names for name in of_a_shard)

    @overload
    def __getitem__(self, index: int) -> ShardMember: ...
    @overload
    def __getitem__(self, index: slice) -> list[ShardMember]: ...
    def __getitem__(self, index: int | slice) -> ShardMember | list[ShardMember]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)} pictures, got {index}")
        index %= len(self)
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (self._ends[number - 1] if number else 0)
        offset, size = self._places[number][row].tolist()
        name = os.fsdecode(self._names[number][row])
        return ShardMember(self.shards[number], Member(name, offset, size))


def open_pictures(path: str | os.PathLike[str]) -> Sequence[PictureFile]:
    """The pictures of a folder, of a `.txt` list, or of the tar shards that a pattern names.

    Raises:
        DataError: as `list_images`, `list_shards`, `ShardedPictures`.
    """
    if os.fspath(path).endswith(".tar"):
        return ShardedPictures(list_shards(path))
    return list_images(path)


class _OpenShard:
    """An open tar file; closed when the last one who reads from it has let go of it."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.handle = -1
        self.handle = os.open(shard.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def check(self) -> None:
        """That it is what was indexed: one call to the system for each picture."""
        status, shard = os.fstat(self.handle), self.shard
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
            raise DataError(
                f"the shard {shard.path} was changed since it was indexed; put it back, or start "
                "anew with the changed one"
            )

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


@lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard(shard: Shard) -> _OpenShard:
    return _OpenShard(shard)


class _Window(io.RawIOBase):
    """The bytes of one member. By pread, so that threads and forked workers share a handle."""

    def __init__(self, opened: _OpenShard, member: Member) -> None:
        self._opened, self._member, self._at = opened, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        if start + offset < 0:
            raise OSError(f"offset must not lead before the start, got {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray) -> int:
        wanted = max(0, min(len(buffer), self._member.size - self._at))
        try:
            read = os.pread(self._opened.handle, wanted, self._member.offset + self._at)
        except OSError:
            _open_shard.cache_clear()  # as in ShardMember.open
            raise
        if wanted and not read:
            raise DataError(
                f"the shard {self._opened.shard.path} was cut off while it was read, in "
                f"{self._member.name}; copy or write it again"
            )
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)
