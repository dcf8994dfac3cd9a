"""Pictures in tar shards: read by index, the same training as on a folder, clear errors."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sample_pictures import write_pictures, write_truncated_jpeg

from vqgan_fast.data import (
    DataError,
    ImageStream,
    ShardedPictures,
    UnreadableImageError,
    batches,
    index_shard,
    list_images,
    list_shards,
    pictures_fingerprint,
    read_image,
)
from vqgan_fast.data.shard_index import scan_shard
from vqgan_fast.data.shards import _open_shard
from vqgan_fast.data.write_shards import plan_shards, write_shards

LONG = "a" * 120 + "/" + "ü" * 120 + ".png"  # beyond what a header holds


@pytest.fixture
def folder(tmp_path) -> Path:
    files = write_pictures(tmp_path / "pictures", 9)
    (tmp_path / "pictures" / "below").mkdir()
    files[4].rename(tmp_path / "pictures" / "below" / "ünique.png")
    return tmp_path / "pictures"


@pytest.fixture
def shards(folder, tmp_path) -> list[Path]:
    return write_shards(plan_shards(folder, 3), tmp_path / "shards" / "photos")


def write_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def test_shards_hold_the_pictures_of_the_folder_in_its_order(folder, shards):
    pictures = ShardedPictures(shards)
    files = list_images(folder)
    assert len(pictures) == len(files) == 9
    names = [file.relative_to(folder).as_posix() for file in files]
    assert [str(picture).split(".tar:")[1] for picture in pictures] == names
    for picture, file in zip(pictures, files, strict=True):
        assert picture.open().read() == file.read_bytes()
        assert read_image(picture).tobytes() == read_image(file).tobytes()
    assert str(pictures[-1]) == str(pictures[8]) == f"{shards[2]}:{names[-1]}"
    assert [str(p) for p in pictures[2:4]] == [str(pictures[2]), str(pictures[3])]
    with pytest.raises(IndexError, match="below 9 pictures, got 9"):
        pictures[9]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_of_shards_is_the_stream_of_the_folder(folder, shards, num_workers):
    settings = {"size": 32, "flip": True, "seed": 3}
    expected = ImageStream(list_images(folder), **settings)
    stream = ImageStream(ShardedPictures(shards), **settings)
    # In the middle of an epoch, over its end, as the second of two ranks.
    place = {"start": 5, "count": 4, "rank": 1, "world_size": 2}
    for ours, theirs in zip(
        batches(stream, 3, num_workers=num_workers, **place),
        batches(expected, 3, **place),
        strict=True,
    ):
        assert ours.positions == theirs.positions
        assert torch.equal(ours.images, theirs.images)


def test_an_epoch_that_is_cut_and_goes_on_with_other_ranks_has_every_picture_once(shards):
    pictures = ShardedPictures(shards)
    stream = ImageStream(pictures, size=32)
    seen: list[str] = []
    start = 0
    for world_size, batch_size, count in ((2, 1, 2), (1, 2, 1), (3, 1, 1)):
        for rank in range(world_size):
            place = {"start": start, "count": count, "rank": rank, "world_size": world_size}
            for batch in batches(stream, batch_size, **place):
                seen += [str(pictures[stream.order.locate(p)[1]]) for p in batch.positions]
        start += world_size * batch_size * count
    assert sorted(seen) == sorted(map(str, pictures))


def test_a_shard_that_cannot_be_opened_ends_the_work(shards, monkeypatch):
    pictures = ShardedPictures(shards)
    stream = ImageStream(pictures, size=32, shuffle=False)
    _open_shard.cache_clear()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for number in (errno.EACCES, errno.EMFILE):

        def refused(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refused)
            with pytest.raises(DataError, match=rf"photos.*{os.strerror(number)}") as error:
                stream[0]
        assert not isinstance(error.value, UnreadableImageError)
    assert stream[0].skipped == ()
    shards[0].unlink()
    _open_shard.cache_clear()
    with pytest.raises(DataError, match=r"photos.*cannot be opened \(No such file"):
        stream[0]


def test_a_shard_whose_handle_is_stale_is_opened_again(shards, monkeypatch):
    picture = ShardedPictures(shards)[0]
    expected = read_image(picture).tobytes()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    stale, pread = _open_shard(picture.shard).handle, os.pread
    # Kept open, so that the new one has another number.
    kept = _open_shard(picture.shard)

    def answered(handle: int, *place: int) -> bytes:
        if handle == stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(handle, *place)

    monkeypatch.setattr(os, "pread", answered)
    assert read_image(picture).tobytes() == expected
    assert _open_shard(picture.shard) is not kept


def test_an_index_of_a_shard_that_cannot_be_read_names_the_reason(shards, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(tarfile, "open", broken)
    with pytest.raises(DataError, match=rf"{shards[0].name} cannot be read: Input/output error"):
        scan_shard(shards[0])


def test_what_is_no_picture_is_passed_over_and_long_names_are_read(tmp_path):
    (picture,) = write_pictures(tmp_path / "one", 1)
    content = picture.read_bytes()
    members = {"a.json": b"{}", "a.png": content, "._a.png": b"fork", LONG: content, "a.cls": b"3"}
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / f"{kind}.tar", members, format=kind)
        _, found = index_shard(path)
        assert [member.name for member in found] == ["a.png", LONG]
        for member in ShardedPictures([path]):
            assert member.open().read() == content


def test_links_are_followed_or_refused(folder, tmp_path):
    first, *_ = sorted(folder.rglob("*.png"))
    shard = tmp_path / "photos.tar"

    def write(kind: bytes, target: str) -> None:
        with tarfile.open(shard, "w") as tar:
            tar.add(first, "a.png")
            link = tarfile.TarInfo("b.png")
            link.type, link.linkname = kind, target
            tar.addfile(link)

    write(tarfile.LNKTYPE, "a.png")
    one, other = ShardedPictures([shard])
    assert str(other).endswith(":b.png") and other.open().read() == one.open().read()
    for kind, target in ((tarfile.SYMTYPE, "a.png"), (tarfile.LNKTYPE, "elsewhere.png")):
        write(kind, target)
        with pytest.raises(DataError, match=r"does not hold b\.png itself.*--hard-dereference"):
            ShardedPictures([shard])


def test_names_that_are_not_utf_8_are_read(tmp_path):
    (picture,) = write_pictures(tmp_path / "one", 1)
    name = os.fsdecode(b"caf\xe9.png")
    path = write_tar(tmp_path / "latin.tar", {name: picture.read_bytes()})
    for _ in range(2):  # scanned, then by its index
        (member,) = ShardedPictures([path])
        assert member.member.name == name
        assert member.open().read() == picture.read_bytes()
    crc = zlib.crc32(b"caf\xe9.png\0")
    assert pictures_fingerprint(ShardedPictures([path])) == f"1 pictures, {crc:08x}"


def test_the_index_is_kept_and_made_anew_when_the_shard_changes(shards, folder, monkeypatch):
    from vqgan_fast.data import shard_index

    path = shards[0]
    index = path.with_name(path.name + ".index")
    assert len(json.loads(index.read_text())["members"]) == 3
    _, expected = index_shard(path)
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "scan_shard", lambda path: pytest.fail("scanned again"))
        assert index_shard(path)[1] == expected
    for damaged in ("", "[]", '{"version": 0}'):
        index.write_text(damaged)
        assert index_shard(path)[1] == expected
        assert json.loads(index.read_text())["version"] == 3
    kept = json.loads(index.read_text())
    for members in (
        [], [["a.png", None, None]], [["a.png", "0", "5"]], [[5, 0, 5]], [["a.png", -1, 5]],
        [["a.png", 0, -5]], [["a.png", 0, path.stat().st_size + 1]], [["a.png", 0.0, 5]],
    ):  # fmt: skip
        index.write_text(json.dumps({**kept, "members": members}))
        assert index_shard(path)[1] == expected
        assert json.loads(index.read_text()) == kept
    os.utime(path, ns=(1, 1))
    stamp = json.loads(index.read_text())["mtime_ns"]
    assert index_shard(path)[1] == expected
    assert json.loads(index.read_text())["mtime_ns"] == 1 != stamp


def test_an_index_that_cannot_be_written_is_done_without(shards, monkeypatch):
    index = shards[0].with_name(shards[0].name + ".index")
    index.unlink()
    index.mkdir()  # whoever runs this, root too, cannot replace a folder by a file
    assert len(ShardedPictures(shards)) == 9


def test_writing_is_repeatable_and_balanced(folder, shards, tmp_path):
    again = write_shards(plan_shards(folder, 3), tmp_path / "again" / "photos")
    assert [path.name for path in again] == [f"photos-00000{i}.tar" for i in range(3)]
    for one, other in zip(shards, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert [len(run) for run in plan_shards(folder, 9)] == [1] * 9
    assert [len(run) for run in plan_shards(folder)] == [9]
    (folder / "picture_008.png").write_bytes(bytes(10**6))  # heavier than all the others
    assert [len(run) for run in plan_shards(folder, 3)] == [7, 1, 1]
    with pytest.raises(DataError, match="between 1 and the 9 pictures, got 10"):
        plan_shards(folder, 10)


def test_a_list_gives_numbered_names(folder, tmp_path):
    (tmp_path / "list.txt").write_text("pictures/picture_003.png\npictures/picture_001.png\n")
    (entries,) = plan_shards(tmp_path / "list.txt", 1)
    assert [entry.name for entry in entries] == [
        "000000000_picture_003.png", "000000001_picture_001.png",
    ]  # fmt: skip


def test_patterns(shards, monkeypatch):
    monkeypatch.chdir(shards[0].parent)
    names = [path.name for path in shards]
    assert [str(path) for path in list_shards("photos-{000000..000002}.tar")] == names
    assert [str(path) for path in list_shards("photos-*.tar")] == names
    assert [str(path) for path in list_shards([names[2], "photos-00000[01].tar"])] == [
        names[2], *names[:2],
    ]  # fmt: skip
    literal = Path("{1..2}[1]-*.tar")
    literal.write_bytes(shards[0].read_bytes())
    assert list_shards(str(literal)) == [literal]
    numbered = Path("[a]-01.tar")
    numbered.write_bytes(shards[0].read_bytes())
    assert list_shards("[a]-{01..01}.tar") == [numbered]
    for wrong, message in (
        ([], "the list of shards is empty"),
        ("other-*.tar", "no shard matches other-"),
        ("photos-{000000..000003}.tar", "there is no shard photos-000003.tar"),
        ("photos-{2..1}.tar", r"the range \{2..1\} of .* is empty"),
        (["photos-*.tar", names[1]], "photos-000001.tar is named 2 times"),
    ):
        with pytest.raises(DataError, match=message):
            list_shards(wrong)


def test_a_truncated_shard_is_named_wherever_it_was_cut(shards):
    path = shards[1]
    content = path.read_bytes()
    _, members = index_shard(path)
    last = members[-1]
    boundary = -(-(last.offset + last.size) // 512) * 512
    for length in (
        last.offset + last.size // 2,  # in a picture
        boundary,  # between two members: tarfile takes it for whole
        last.offset - 700,  # in a header
    ):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"{path.name} is cut off or damaged after \d members"):
            ShardedPictures(shards)
    for bad, message in (
        (b"", "is no plain tar file"),
        (b"x" * 2048, "is no plain tar file"),
        (content[:300], "is no plain tar file"),
        (bytes(10240), "holds no picture"),
    ):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=rf"{path.name} {message}"):
            ShardedPictures(shards)
    path.unlink()
    with pytest.raises(DataError, match=f"the shard .*{path.name} cannot be read: No such file"):
        ShardedPictures(shards)


def test_data_behind_the_end_of_a_shard_is_named(shards):
    path = shards[1]
    content = path.read_bytes()
    _, members = index_shard(path)
    header = members[1].offset - 512
    hole = content[:header] + bytes(512) + content[header + 512 :]
    end = len(content.rstrip(b"\0"))
    for bad, place in (
        (content + shards[0].read_bytes(), f"at byte {len(content)}, after 3 members"),
        (hole, f"at byte {header + 512}, after 1 members"),
        (content + b"\0" * 5 + b"x", f"at byte {len(content) + 5}, after 3 members"),
    ):
        path.write_bytes(bad)
        message = rf"{path.name} has data behind the end of the archive {place}; .* again"
        with pytest.raises(DataError, match=message):
            ShardedPictures(shards)
    path.write_bytes(content[:header] + bytes(2**20 + 1024))
    with pytest.raises(DataError, match=rf"{path.name} is zeros from byte {header + 512} on"):
        ShardedPictures(shards)
    for padding in (0, 10240, 2**20 - 20480):
        path.write_bytes(content[: -(-end // 512) * 512 + 1024] + bytes(padding))
        assert len(ShardedPictures(shards)) == 9


def test_a_shard_that_changes_during_training_stops_it(shards):
    stream = ImageStream(ShardedPictures(shards), size=32, shuffle=False)
    content = shards[0].read_bytes()
    stamp = shards[0].stat().st_mtime_ns
    for changed, when in ((content[:-512], stamp), (content, stamp + 1)):
        shards[0].write_bytes(changed)
        os.utime(shards[0], ns=(when, when))
        with pytest.raises(DataError, match=rf"{shards[0].name} was changed since it was indexed"):
            stream[1]
    shards[0].write_bytes(content)
    os.utime(shards[0], ns=(stamp, stamp))
    opened = stream.files[1].open()
    os.truncate(shards[0], 1000)
    with pytest.raises(DataError, match=rf"{shards[0].name} was cut off while it was read, in "):
        opened.read()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_with_workers_a_damaged_shard_is_told_in_one_line(shards, num_workers):
    stream = ImageStream(ShardedPictures(shards), size=32, shuffle=False)
    os.truncate(shards[0], 700)
    with pytest.raises(DataError) as raised:
        list(batches(stream, 2, count=2, num_workers=num_workers))
    assert str(raised.value).startswith(f"the shard {shards[0]} was changed since it was indexed")
    assert "\n" not in str(raised.value)


def test_an_unreadable_member_gives_its_place_to_the_next_and_is_named(folder, tmp_path):
    write_truncated_jpeg(folder / "picture_001.jpg")
    paths = write_shards(plan_shards(folder, 2), tmp_path / "shards" / "photos")
    stream = ImageStream(ShardedPictures(paths), size=32, crop="center", shuffle=False)
    sample = stream[2]
    assert sample.skipped == (f"{paths[0]}:picture_001.jpg",)
    assert torch.equal(sample.image, stream[3].image)


def test_threads_and_pickles_read_the_same(shards):
    pictures = pickle.loads(pickle.dumps(ShardedPictures(shards)))
    expected = [picture.open().read() for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(lambda picture: picture.open().read(), pictures)) == expected


def test_a_members_file_can_be_searched(shards):
    picture = ShardedPictures(shards)[0]
    content = picture.open().read()
    file = picture.open()
    assert file.seek(-4, os.SEEK_END) == len(content) - 4
    assert file.read(100) == content[-4:]
    assert file.seek(10) == 10 and file.seek(5, os.SEEK_CUR) == 15
    assert file.read(7) == content[15:22]
    with pytest.raises((OSError, ValueError)):
        file.seek(-1)


def test_an_index_tells_what_counted_as_a_picture(tmp_path, monkeypatch):
    """One that was made where Pillow reads less would hide pictures."""
    from vqgan_fast.data import shard_index

    path = write_tar(tmp_path / "a.tar", {"a.png": b"1", "b.jp2": b"2"})
    monkeypatch.setattr(shard_index, "EXTENSIONS", frozenset({".png"}))
    assert [member.name for member in index_shard(path)[1]] == ["a.png"]
    monkeypatch.setattr(shard_index, "EXTENSIONS", frozenset({".png", ".jp2"}))
    assert [member.name for member in index_shard(path)[1]] == ["a.png", "b.jp2"]
