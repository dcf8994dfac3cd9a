"""Finding image files and reading them as 8-bit RGB."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageOps, features

EXTENSIONS = frozenset({
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
    *([".jp2"] if features.check("jpg_2000") else []),
    *([".avif"] if "avif" in features.modules and features.check("avif") else []),
})  # fmt: skip
# What a disk, a server or the process's own limits do for a while: it says nothing of the file.
PASSING_ERRORS = frozenset({
    errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE,
    errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTUNREACH,
})  # fmt: skip
PAUSES = (0.1, 0.5, 2.0)  # seconds before each further attempt at such a file

ORIENTATION = 0x0112  # EXIF's tag of which way is up
IMAGE_WIDTH, IMAGE_LENGTH, BITS_PER_SAMPLE = 256, 257, 258  # TIFF's tags
HEADERS_WITH_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
NO_EXIF = (SyntaxError, struct.error)  # what Pillow raises where a block of EXIF is none


class DataError(ValueError):
    """Something is wrong with the pictures or codes that were given; the message says what."""


class UnreadableImageError(DataError):
    """One file that cannot be decoded: truncated, damaged, missing, forbidden, or not a picture."""


class LeftOutWarning(UserWarning):
    """Pictures that are named are gone without."""


def listed(problems: Sequence[str]) -> str:
    """Lines for a message: the first five problems, and how many more there are."""
    more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
    return "".join(f"\n  {line}" for line in [*problems[:5], *more])


class Stored(Protocol):
    """A picture that is no file of its own, such as `vqgan_fast.data.ShardMember`."""

    def open(self) -> BinaryIO:
        """Its bytes."""


PictureFile = str | os.PathLike[str] | Stored
Read = TypeVar("Read")


def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder (searched recursively, links followed) or of a `.txt` list file.

    A folder's pictures come sorted by their path, so that the order does not depend on the file
    system. A list file has one picture on each line, in the list's own order; a relative line is
    looked up beside the list file first, then in the working directory.

    Raises:
        DataError: the path does not exist, or holds no picture.
    """
    path = Path(path)
    if path.is_dir():
        files = _walk(path)
        if not files:
            raise DataError(
                f"the folder {path} holds no picture (searched recursively for "
                f"{', '.join(sorted(EXTENSIONS))})"
            )
        return files
    if not path.exists():
        raise DataError(
            f"{path} does not exist; expected a folder of pictures or a .txt list of them"
        )
    if path.suffix.lower() != ".txt":
        raise DataError(
            f"expected a folder of pictures or a .txt list of them, got the file {path}"
        )
    # Without the mark that some editors put in front; bytes that are no UTF-8 as in a file's name.
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.splitlines()]
    files = [_resolve(line, path.parent) for line in lines if line]
    if not files:
        raise DataError(f"the list {path} is empty; expected the path of a picture on each line")
    return files


def _walk(folder: Path) -> list[Path]:
    files, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up: walking it again would never end
            folders.clear()
            continue
        seen.add(real)
        files += [
            Path(root, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _resolve(line: str, beside: Path) -> Path:
    candidate = beside / line
    return candidate if candidate.exists() else Path(line)


def read_image(path: PictureFile) -> Image.Image:
    """A file as an RGB picture, upright (EXIF orientation applied), 8 bits a channel.

    16-bit pictures are scaled to 8 bits, grey ones repeated over the channels, CMYK and palettes
    converted, and a transparent picture is laid on white. Of an animation the first frame is taken.
    Pixels of 32 bits or floats, whose white nothing tells, are refused.

    Raises:
        UnreadableImageError, DataError: as `decoded`.
    """
    return decoded(path, _to_rgb)


def read_size(path: PictureFile) -> tuple[int, int]:
    """(width, height) of the upright picture, from the file's header alone.

    Raises:
        UnreadableImageError, DataError: as `decoded`; of the header alone.
    """
    return decoded(path, _upright_size)


def decoded(file: PictureFile, decode: Callable[[Image.Image], Read], what: str = "") -> Read:
    """What `decode` makes of a file that Pillow has opened.

    Errors that may pass are waited for a little, and then end the work: a file that was left out
    because of one would be missing from the rest of a training, on one rank alone.

    Args:
        what: of the messages: FILE cannot be read `what`.

    Raises:
        UnreadableImageError: the file cannot be decoded, whatever the reason.
        DataError: nothing can be read there at the moment, or the shard that holds it was changed.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            with Image.open(_source_of(file)) as opened:
                return decode(opened)
        except (MemoryError, DataError):
            raise
        except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, struct.error
            message = f"{file} cannot be read{what} ({reason_of(error)})"
            if not may_pass(error):
                raise UnreadableImageError(message) from error
            pause = next(pauses, None)
            if pause is None:
                raise DataError(f"{message}, in {len(PAUSES) + 1} attempts") from error
        time.sleep(pause)


def may_pass(error: Exception) -> bool:
    """Whether an error is one of the system that another attempt may not meet."""
    return isinstance(error, OSError) and error.errno in PASSING_ERRORS


def _upright_size(opened: Image.Image) -> tuple[int, int]:
    width, height = opened.size
    if opened.format == "TIFF":  # Pillow turns its size, and then its pixels, by itself
        width, height = opened.tag_v2[IMAGE_WIDTH], opened.tag_v2[IMAGE_LENGTH]
    try:
        rotated = _exif(opened).get(ORIENTATION, 1) in (5, 6, 7, 8)
    except NO_EXIF:
        rotated = False
    return (height, width) if rotated else (width, height)


def upright(opened: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF says; one whose EXIF is none, as it is."""
    opened.load()  # here, so that errors below are not those of the pixels
    try:
        return ImageOps.exif_transpose(opened)
    except NO_EXIF:  # a JPEG's is passed over by Pillow itself
        return opened.copy()


def _exif(opened: Image.Image) -> Image.Exif:
    """What a picture's header says of how it was taken, without decoding it.

    Of a PNG whose header has none Pillow would decode all pixels, to look behind them.
    """
    if opened.format != "PNG" or HEADERS_WITH_EXIF & opened.info.keys():
        return opened.getexif()
    exif = Image.Exif()
    opened.fp.seek(8)  # behind the signature
    while len(head := opened.fp.read(8)) == 8:  # each chunk: length, kind, data, check sum
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            exif.load(b"Exif\0\0" + opened.fp.read(length))
            break
        opened.fp.seek(length + 4, os.SEEK_CUR)
    return exif


def _source_of(path: PictureFile) -> str | os.PathLike[str] | BinaryIO:
    """What Pillow opens."""
    return path if isinstance(path, str | os.PathLike) else path.open()


def _to_rgb(opened: Image.Image) -> Image.Image:
    if opened.mode == "F":
        raise ValueError("float pixels: save as 8 or 16 bits")
    if opened.mode == "I" and not _has_16_bits(opened):
        raise ValueError("32-bit pixels: save as 8 or 16 bits")
    image = upright(opened)
    if image.mode.startswith("I"):  # 16 bits of grey, which convert("RGB") would clip at 255
        grey = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((grey // 257).astype(np.uint8))
        if "transparency" in opened.info:  # of a PNG: the one value that is not painted
            seen = grey != opened.info["transparency"]
            image.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _has_16_bits(opened: Image.Image) -> bool:
    """Whether a picture of mode I, which has room for 32 bits, is of a file with 16.

    The pixels do not tell: a dark picture of 16 bits has values below 256, too.
    """
    if opened.format in ("PNG", "PPM"):  # they have no more, and Pillow scales what is in between
        return True
    return getattr(opened, "tag_v2", {}).get(BITS_PER_SAMPLE) == (16,)


def reason_of(error: Exception) -> str:
    """A decoder's complaint, without the path that the caller names anyway."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
