"""Where the pictures lie in a tar shard: found once by reading its headers, then kept beside it.

webdataset's `wids` read shards by index too; webdataset no longer ships it (since 1.0), and its
reader neither notices a shard that was cut off nor reads names beyond 100 characters.
`docs/shards.md` says more.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from vqgan_fast.models.pretrained import replacing

from .images import EXTENSIONS, DataError

SUFFIX = ".index"  # photos-000000.tar.index
_VERSION = 3
_BLOCK = 512  # of the tar format: headers and contents fill whole ones, one of zeros ends a file
_PADDING = 2**20  # the most zeros at the end; writers fill records of 10240 bytes, few larger ones


@dataclass(frozen=True)
class Shard:
    """A tar file as it was when it was indexed: its size in bytes, its time of change."""

    path: Path
    size: int
    mtime_ns: int


class Member(NamedTuple):
    """A picture of a shard: its name, and the bytes [offset, offset + size) of the tar file."""

    name: str
    offset: int
    size: int


def shard_now(path: Path) -> Shard:
    """The shard as it is at this moment.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read: {error.strerror}") from error
    return Shard(path, status.st_size, status.st_mtime_ns)


def index_shard(path: Path) -> tuple[Shard, list[Member]]:
    """The pictures of a shard in the order in which they lie in it.

    The index is kept in PATH.index and used as long as the shard has its size and time of change.
    In a folder that cannot be written it is made anew each time.

    Raises:
        DataError: the shard is missing, cannot be read, is no plain tar file, is cut off, goes on
            behind its end, or holds no picture.
    """
    shard = shard_now(path)
    members = _read_index(shard)
    if members is None:
        members = scan_shard(path)
        _write_index(shard, members)
    return shard, members


def scan_shard(path: Path) -> list[Member]:
    """The pictures of a tar file, from its headers alone.

    One that is a hard link, as tar writes a file that it has met under another name, lies where
    that one does.

    Raises:
        DataError: as `index_shard`.
    """
    entries = 0
    last = "none"
    members = []
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                entries, last = entries + 1, entry.name
                if entry.isreg() and not entry.issparse():
                    places[entry.name] = (entry.offset_data, entry.size)
                if entry.isdir() or not _is_picture(entry.name):
                    continue
                place = places.get(entry.linkname if entry.islnk() else entry.name)
                if place is None:
                    raise DataError(
                        f"the shard {path} does not hold {entry.name} itself, but a link, or a "
                        "file with holes; write it with tar's --dereference, --hard-dereference "
                        "and without --sparse"
                    )
                members.append(Member(entry.name, *place))
            # tarfile takes a file that ends between two members, or in the middle of a header, for
            # a whole one; but every writer of tar files ends them with blocks of zeros.
            tar.fileobj.seek(tar.offset)
            whole = tar.fileobj.read(_BLOCK) == bytes(_BLOCK)
            if whole:
                _check_end(path, tar.fileobj, entries)
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read: {error.strerror}") from error
    except tarfile.TarError as error:
        if entries == 0:
            raise DataError(
                f"the shard {path} is no plain tar file ({error}); a compressed one cannot be read "
                "by index"
            ) from error
        whole = False
    if not whole:
        raise DataError(
            f"the shard {path} is cut off or damaged after {entries} members (the last: {last}); "
            "copy or write it again"
        )
    if not members:
        raise DataError(
            f"the shard {path} holds no picture ({entries} members, none of them "
            f"{', '.join(sorted(EXTENSIONS))})"
        )
    return members


def _check_end(path: Path, file: IO[bytes], entries: int) -> None:
    """That nothing but a little padding follows the block of zeros that was just read.

    tarfile takes the first such block for the end. Behind one in the middle, as two files put
    together or a hole in a copy have it, pictures would be missing without a word.
    """
    start = file.tell()
    tail = file.read(_PADDING + 1)
    data = len(tail) - len(tail.lstrip(b"\0"))
    if data < len(tail):
        raise DataError(
            f"the shard {path} has data behind the end of the archive at byte {start + data}, "
            f"after {entries} members; copy or write it again, and join tar files with "
            "tar --concatenate"
        )
    if len(tail) > _PADDING:
        raise DataError(
            f"the shard {path} is zeros from byte {start} on, after {entries} members, which is "
            "more than the end of an archive; copy or write it again"
        )


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def _index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + SUFFIX)


def _read_index(shard: Shard) -> list[Member] | None:
    """The members that PATH.index names, None where there is no index of this very shard."""
    try:
        index = json.loads(_index_path(shard.path).read_text(encoding="utf-8"))
        if any(index[key] != value for key, value in _stamp(shard).items()):
            return None
        members = [Member(*entry) for entry in index["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = members and all(_lies_in(shard, member) for member in members)
    return members if sound else None


def _lies_in(shard: Shard, member: Member) -> bool:
    """Whether an entry of an index file can be one of the shard."""
    name, offset, size = member
    if not isinstance(name, str) or type(offset) is not int or type(size) is not int:
        return False
    return 0 <= offset <= offset + size <= shard.size


def _write_index(shard: Shard, members: list[Member]) -> None:
    lines = ",\n".join(json.dumps(member) for member in members)
    text = f'{json.dumps(_stamp(shard))[:-1]}, "members": [\n{lines}\n]}}\n'
    try:
        with replacing(_index_path(shard.path)) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError:  # a folder that cannot be written, a full disk: the index is only a short cut
        pass


def _stamp(shard: Shard) -> dict[str, int | str]:
    """What an index was made of: the shard, and what counts as a picture, which Pillow decides."""
    kinds = " ".join(sorted(EXTENSIONS))
    return {
        "version": _VERSION, "size": shard.size, "mtime_ns": shard.mtime_ns, "pictures": kinds,
    }  # fmt: skip
