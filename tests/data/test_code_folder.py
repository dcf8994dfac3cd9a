"""Codes in a folder: written by several processes, gone on with, read as one."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from sample_pictures import write_pictures, write_truncated_jpeg

from vqgan_fast.data import (
    DataError,
    ImageStream,
    Place,
    list_images,
    read_codes,
    tokenize_images,
    write_code_folder,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 7)
    write_truncated_jpeg(folder / "picture_002.jpg")
    write_truncated_jpeg(folder / "picture_002a.jpg")
    return list_images(folder)


def stream_of(files, **changes):
    return ImageStream(files, **{"size": 32, "flip": True, "shuffle": False, **changes})


@pytest.fixture(scope="module")
def expected(vqgan, pictures):
    return tokenize_images(vqgan, stream_of(pictures), crops_per_image=2, batch_size=3)


def write(folder, vqgan, pictures, per_file=4, place=None, say=None, **changes):
    return write_code_folder(
        folder, vqgan, stream_of(pictures, **changes), crops_per_image=2,
        crops_per_file=per_file, batch_size=3, say=say,
        **({} if place is None else {"place": place}),
    )  # fmt: skip


@pytest.mark.parametrize("per_file", [1, 4, 100])  # with 1, some files have no code at all
def test_a_folder_holds_what_one_file_would(tmp_path, vqgan, pictures, expected, per_file):
    tokens, skipped = expected
    done = write(tmp_path / "codes", vqgan, pictures, per_file)
    assert done.rows == len(tokens) == 14
    assert tuple(done.skipped) == skipped and len(skipped) == 2
    assert len(done.files) == -(-18 // per_file)
    codes = read_codes(tmp_path / "codes")
    assert codes.shape == (14, 8, 8)
    assert torch.equal(codes.tokens, tokens)
    rows = [13, 0, 5, 5]
    assert torch.equal(codes.rows(rows), tokens[rows])


def test_several_processes_write_the_same_files(tmp_path, vqgan, pictures):
    write(tmp_path / "one", vqgan, pictures)
    barrier = Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        places = [Place(rank, 3, lambda: barrier.wait(60)) for rank in range(3)]
        list(pool.map(lambda place: write(tmp_path / "three", vqgan, pictures, 4, place), places))
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "three").iterdir())
    assert len(names) == 7  # five files of codes, the job, the index
    for name in names:
        one, three = tmp_path / "one" / name, tmp_path / "three" / name
        assert one.read_bytes() == three.read_bytes()


def test_the_same_call_goes_on_where_it_was_killed(tmp_path, vqgan, pictures, expected):
    folder = tmp_path / "codes"
    write(folder, vqgan, pictures)
    # As a killed process leaves it: some files, one unfinished, no index.
    files = sorted(folder.glob("*.safetensors"))
    files[1].rename(folder / f".{files[1].name}.123.tmp")
    files[3].unlink()
    (folder / "codes.index.json").unlink()
    with pytest.raises(DataError, match=r"no finished folder .* \(3 files of codes are there\)"):
        read_codes(folder)
    before = {file: file.stat().st_mtime_ns for file in folder.glob("codes-*")}
    write(folder, vqgan, pictures)
    assert torch.equal(read_codes(folder).tokens, expected[0])
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


def test_the_same_call_writes_damaged_files_anew(tmp_path, vqgan, pictures, expected):
    folder = tmp_path / "codes"
    write(folder, vqgan, pictures)
    files = sorted(folder.glob("*.safetensors"))
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[2].write_bytes(contents[2][:-8])
    files[1].write_bytes(contents[1][:-4] + bytes(3) + b"\x7f")  # a code beyond every codebook
    told = []
    write(folder, vqgan, pictures, say=told.append)
    assert [file.read_bytes() for file in files] == contents
    assert torch.equal(read_codes(folder).tokens, expected[0])
    assert len(told) == 3 and all(line.startswith("written anew: ") for line in told)
    assert all(file.name in line for file, line in zip(files, told, strict=False))


def test_a_file_that_cannot_be_read_now_is_not_removed(tmp_path, vqgan, pictures, monkeypatch):
    folder = tmp_path / "codes"
    write(folder, vqgan, pictures)
    contents = {path: path.read_bytes() for path in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("vqgan_fast.data.codes.safe_open", fail)
    with pytest.raises(DataError, match="Input/output error"):
        write(folder, vqgan, pictures)
    assert contents == {path: path.read_bytes() for path in folder.iterdir()}


def test_pictures_may_be_named_by_another_path(tmp_path, vqgan, pictures, monkeypatch):
    write(tmp_path / "codes", vqgan, pictures)
    monkeypatch.chdir(pictures[0].parent)
    write(tmp_path / "codes", vqgan, [file.relative_to(Path.cwd()) for file in pictures])


def test_other_pictures_of_the_same_names_are_another_job(tmp_path, vqgan, pictures):
    write(tmp_path / "codes", vqgan, pictures)
    others = tmp_path / "others"
    others.mkdir()
    for file in pictures:
        (others / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="was begun with pictures = 9, "):
        write(tmp_path / "codes", vqgan, [others / file.name for file in pictures])


def test_a_damaged_job_is_told_with_advice(tmp_path, vqgan, pictures):
    write(tmp_path / "codes", vqgan, pictures)
    (tmp_path / "codes" / "job.json").write_text("")
    with pytest.raises(DataError, match=r"job\.json cannot be read .* begin anew"):
        write(tmp_path / "codes", vqgan, pictures)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "was begun with seed = 0, now it is 3"),
        ({"per_file": 5}, "was begun with crops_per_file = 4, now it is 5"),
        ({"size": 16}, "was begun with size = 32, now it is 16"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(tmp_path, vqgan, pictures, changes, message):
    write(tmp_path / "codes", vqgan, pictures)
    with pytest.raises(DataError, match=message):
        write(tmp_path / "codes", vqgan, pictures, **changes)
    with pytest.raises(DataError, match=r"was begun with pictures = 9, .*, now it is 8, "):
        write(tmp_path / "codes", vqgan, pictures[1:])


def test_another_encoder_with_the_same_codebook_is_another_job(tmp_path, vqgan, pictures):
    write(tmp_path / "codes", vqgan, pictures)
    other = copy.deepcopy(vqgan)
    with torch.no_grad():
        other.quant_conv.bias[0] += 1
    with pytest.raises(DataError, match=r"was begun with encoder = [0-9a-f]{8}, now it is"):
        write(tmp_path / "codes", other, pictures)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_job_that_ended_before_its_first_codes_gives_way(
    tmp_path, vqgan, pictures, expected, monkeypatch, damaged
):
    def fail(*_, **__):
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr("vqgan_fast.data.code_folder.tokenize_images", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            write(tmp_path, vqgan, pictures, seed=3)
    assert [file.name for file in tmp_path.iterdir()] == ["job.json"]
    if damaged:
        (tmp_path / "job.json").write_text("{")
    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        places = [Place(rank, 2, lambda: barrier.wait(60)) for rank in range(2)]
        list(pool.map(lambda place: write(tmp_path, vqgan, pictures, 4, place), places))
    assert torch.equal(read_codes(tmp_path).tokens, expected[0])


def test_a_folder_of_something_else_is_left_alone(tmp_path, vqgan, pictures):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds no job\.json .* choose an empty folder"):
        write(tmp_path, vqgan, pictures)
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


def test_files_that_were_changed_are_named(tmp_path, vqgan, pictures):
    folder = tmp_path / "codes"
    write(folder, vqgan, pictures)
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-8])
    with pytest.raises(DataError, match=f"{first.name} is no file of codes"):
        read_codes(folder)
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=f"{first.name} is not the file that .*index.json names"):
        read_codes(folder)
    first.unlink()
    with pytest.raises(DataError, match=f"{first.name} is no file of codes"):
        read_codes(folder)
    first.write_bytes(content)
    index = json.loads((folder / "codes.index.json").read_text())
    (folder / "codes.index.json").write_text("{" + json.dumps(index))
    with pytest.raises(DataError, match=r"codes\.index\.json cannot be read"):
        read_codes(folder)
