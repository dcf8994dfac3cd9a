"""Listing and reading pictures of every kind that lies around in folders."""

from __future__ import annotations

import errno
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from sample_pictures import pixels, write_pictures, write_truncated_jpeg

from vqgan_fast.data import (
    DataError,
    Depth,
    ImageStream,
    UnreadableImageError,
    list_images,
    read_image,
)
from vqgan_fast.data.images import EXTENSIONS, PAUSES, read_size


def test_a_folder_is_searched_recursively_and_sorted(tmp_path):
    write_pictures(tmp_path / "b", 2)
    write_pictures(tmp_path / "a" / "deep", 1)
    (tmp_path / "a" / "notes.md").write_text("no picture")
    (tmp_path / "a" / ".hidden.png").write_text("no picture either")
    Image.new("RGB", (4, 4)).save(tmp_path / "C.JPEG")
    names = [file.relative_to(tmp_path).as_posix() for file in list_images(tmp_path)]
    assert names == ["C.JPEG", "a/deep/picture_000.png", "b/picture_000.png", "b/picture_001.png"]


def test_a_link_to_a_folder_is_followed_and_a_circle_ends(tmp_path):
    write_pictures(tmp_path / "elsewhere", 2)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert len(list_images(folder)) == 2


def test_a_list_file_keeps_its_order_and_finds_files_beside_it(tmp_path):
    files = write_pictures(tmp_path / "pictures", 3)
    listed = tmp_path / "train.txt"
    listed.write_text(f"pictures/picture_002.png\n\n{files[0]}\nmissing.png\n")
    assert [str(file) for file in list_images(listed)] == [
        str(files[2]),
        str(files[0]),
        "missing.png",
    ]


def test_a_list_file_of_any_editor_and_of_any_names_is_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")  # what a name in Latin-1 is to Python
    for number, file in enumerate(("first.png", name)):
        Image.fromarray(pixels(number, 24, 16)).save(tmp_path / file)
    listed = tmp_path / "train.txt"
    listed.write_bytes(b"\xef\xbb\xbffirst.png\r\ncaf\xe9.png\r\n")
    files = list_images(listed)
    assert files == [tmp_path / "first.png", tmp_path / name]
    assert all(read_image(file).size == (24, 16) for file in files)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist"),
        (lambda path: path.mkdir() or path, "holds no picture"),
        (
            lambda path: path.with_suffix(".txt").write_text("\n") and path.with_suffix(".txt"),
            "empty",
        ),
        (
            lambda path: path.with_suffix(".zip").write_text("x") and path.with_suffix(".zip"),
            "txt list",
        ),
    ],
    ids=["missing", "empty folder", "empty list", "another file"],
)
def test_nothing_to_list_is_an_error_that_names_the_path(tmp_path, make, message):
    path = make(tmp_path / "given")
    with pytest.raises(DataError, match=message) as error:
        list_images(path)
    assert "given" in str(error.value)


def test_grey_and_16_bit_pictures_keep_their_brightness(tmp_path):
    grey = pixels(1, 20, 10)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    for name in ("grey.png", "grey16.png"):
        image = read_image(tmp_path / name)
        assert image.mode == "RGB"
        assert (np.asarray(image) == grey[..., None]).all(), name


def test_dark_pictures_of_16_bits_are_dark_in_every_mode_of_pillow(tmp_path, monkeypatch):
    """Pillow opens some of them with mode I, and older ones more of them."""
    dark = np.full((4, 4), 200, dtype=np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.tif")
    (tmp_path / "dark.pgm").write_text("P2\n2 2\n65535\n200 200 200 51400\n")
    assert np.asarray(read_image(tmp_path / "dark.tif")).max() == 0
    assert np.asarray(read_image(tmp_path / "dark.pgm"))[..., 0].tolist() == [[0, 0], [0, 200]]
    Image.fromarray(dark).save(tmp_path / "dark.png")
    open_file = Image.open

    def opens_as_older_ones(*arguments):
        opened = open_file(*arguments)
        opened._mode = "I"
        return opened

    monkeypatch.setattr(Image, "open", opens_as_older_ones)
    assert np.asarray(read_image(tmp_path / "dark.png")).max() == 0


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4), 0.5, np.float32), "float pixels: save as 8 or 16 bits"),
        (np.full((4, 4), 200, np.int32), "32-bit pixels: save as 8 or 16 bits"),
        (np.full((4, 4), 300000, np.int32), "32-bit pixels: save as 8 or 16 bits"),
    ],
)
def test_pixels_without_a_known_white_are_refused(tmp_path, array, reason):
    Image.fromarray(array).save(tmp_path / "given.tif")
    with pytest.raises(UnreadableImageError, match=rf"given\.tif cannot be read \({reason}\)"):
        read_image(tmp_path / "given.tif")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".pgm", ".pnm", ".tga", ".jp2", ".avif"])
def test_rarer_extensions_that_pillow_reads_are_found(tmp_path, suffix):
    if suffix in (".jp2", ".avif") and suffix not in EXTENSIONS:  # a Pillow built without it
        (tmp_path / f"a{suffix}").touch()
        with pytest.raises(DataError, match="holds no picture"):
            list_images(tmp_path)
        return
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".pgm": "PPM", ".pnm": "PPM"}.get(suffix)
    Image.new("L" if suffix == ".pgm" else "RGB", (16, 16), 0).save(tmp_path / f"a{suffix}", kind)
    (file,) = list_images(tmp_path)
    assert read_image(file).size == (16, 16)


def test_cmyk_palette_and_transparent_pictures(tmp_path):
    rgb = Image.fromarray(pixels(2, 32, 32))
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    rgb.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    for name in ("cmyk.tif", "palette.png"):
        difference = np.abs(np.asarray(read_image(tmp_path / name), float) - np.asarray(rgb, float))
        assert difference.mean() < 8, name
    transparent = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    transparent.putpixel((1, 1), (200, 0, 0, 255))
    transparent.save(tmp_path / "transparent.png")
    read = read_image(tmp_path / "transparent.png")
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 1)) == (200, 0, 0)


def test_a_16_bit_grey_that_a_png_leaves_out_is_white(tmp_path):
    grey = np.array([[1000, 1001], [30000, 1000]], np.uint16)  # the first two are one in 8 bits
    Image.fromarray(grey).save(tmp_path / "grey.png", transparency=1000)
    read = np.asarray(read_image(tmp_path / "grey.png"))
    assert read[..., 0].tolist() == [[255, 3], [116, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_rotated_photograph_comes_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    picture = pixels(3, 24, 16)
    file = tmp_path / f"rotated.{suffix}"
    Image.fromarray(picture).save(file, exif=exif)
    upright = np.rot90(picture, -1)
    assert read_size(file) == (16, 24)
    assert np.array_equal(np.asarray(read_image(file)), upright)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("exif", [b"no tags at all", b"MM\0*"])
def test_a_picture_is_not_lost_for_its_exif(tmp_path, suffix, exif):
    file = tmp_path / f"odd.{suffix}"
    Image.fromarray(pixels(3, 24, 16)).save(file, exif=b"Exif\0\0" + exif, quality=100)
    assert read_size(file) == read_image(file).size == (24, 16)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UnreadableImageError):
        read_image(file)


def test_a_size_is_read_without_decoding(tmp_path, monkeypatch):
    picture = pixels(3, 24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, more in (("plain", {}), ("rotated", {"exif": exif})):
        Image.fromarray(picture).save(tmp_path / f"{name}.png", **more)
    # The chunk may stand behind the pixels as well, in front of the end.
    content = (tmp_path / "rotated.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    moved = content[:start] + content[end:last] + content[start:end] + content[last:]
    (tmp_path / "behind.png").write_bytes(moved)
    upright = np.rot90(picture, -1)
    assert np.array_equal(np.asarray(read_image(tmp_path / "behind.png")), upright)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    sizes = {name: read_size(tmp_path / f"{name}.png") for name in ("plain", "rotated", "behind")}
    assert sizes == {"plain": (24, 16), "rotated": (16, 24), "behind": (16, 24)}


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    files = [write_truncated_jpeg(tmp_path / "cut.jpg"), tmp_path / "text.png"]
    for file in [*files, tmp_path / "empty.jpg", tmp_path / "gone.png"]:
        with pytest.raises(UnreadableImageError, match=file.name):
            read_image(file)


class Failing:
    """A picture on a disk that fails now and then.

    Args:
        times: so many attempts end with the error, before any or after some bytes have been read.
    """

    def __init__(self, path: Path, number: int, times: int, late: bool = False) -> None:
        self.path, self.number, self.times, self.late = path, number, times, late

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> io.BytesIO:
        error = OSError(self.number, os.strerror(self.number), str(self.path))
        self.times -= 1
        if self.times < 0:
            return io.BytesIO(self.path.read_bytes())
        if not self.late:
            raise error
        return LateFailure(self.path.read_bytes(), error)


class LateFailure(io.BytesIO):
    """Its first half can be read."""

    def __init__(self, content: bytes, error: OSError) -> None:
        super().__init__(content)
        self.error, self.end = error, len(content) // 2

    def read(self, size: int = -1) -> bytes:
        if size < 0 or self.tell() + size > self.end:
            raise self.error
        return super().read(size)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that reading waited, without waiting for them."""
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    return naps


PASSING = ["EIO", "ESTALE", "EMFILE", "ENFILE", "EAGAIN", "ETIMEDOUT"]


@pytest.mark.parametrize("late", [False, True], ids=["at opening", "in the middle"])
@pytest.mark.parametrize("name", PASSING)
def test_an_error_that_passes_is_waited_for(tmp_path, naps, name, late):
    (file,) = write_pictures(tmp_path, 1, 64, 64)
    expected = read_image(file).tobytes()
    failing = Failing(file, getattr(errno, name), len(PAUSES), late)
    assert read_image(failing).tobytes() == expected
    assert naps == list(PAUSES)


@pytest.mark.parametrize("read", [read_image, read_size, lambda file: Depth([]).read(file)])
def test_an_error_that_stays_ends_the_work_and_does_not_leave_the_picture_out(tmp_path, naps, read):
    (file,) = write_pictures(tmp_path, 1)
    with pytest.raises(DataError, match=r"picture_000\.png cannot be read.*Input/output") as error:
        read(Failing(file, errno.EIO, 99))
    assert not isinstance(error.value, UnreadableImageError)
    assert "in 4 attempts" in str(error.value)


def test_a_stream_reads_a_picture_again_that_could_not_be_read_for_a_while(tmp_path, naps):
    files = write_pictures(tmp_path, 3)
    failing = Failing(files[1], errno.EIO, 0)
    stream = ImageStream([files[0], failing, files[2]], size=32, shuffle=False)
    failing.times = len(PAUSES) + 1
    with pytest.raises(DataError, match="picture_001"):
        stream[1]
    assert [stream[position].skipped for position in range(3)] == [(), (), ()]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EISDIR])
def test_a_file_that_may_not_be_read_is_unreadable_at_once(tmp_path, naps, number):
    files = write_pictures(tmp_path, 2)
    forbidden = Failing(files[0], number, 99)
    with pytest.raises(UnreadableImageError, match=r"picture_000\.png cannot be read"):
        read_image(forbidden)
    stream = ImageStream([forbidden, files[1]], size=32, shuffle=False)
    assert stream[0].skipped == (str(files[0]),)
    assert naps == []
