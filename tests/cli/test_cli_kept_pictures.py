"""`evaluate --keep-pictures --force` replaces what an earlier call wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import fails, run
from PIL import Image
from sample_pictures import write_pictures
from tiny_vqgan import tiny_vqgan

from vqgan_fast import evaluate as figures_of
from vqgan_fast.cli.kept_pictures import PictureFolder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny_vqgan(resolution=16).save_pretrained(folder / "vqgan")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "photos", 3)
    return tmp_path / "photos"


@pytest.fixture
def kept(run_folder: Path, photos: Path, tmp_path: Path) -> Path:
    """The pictures of an earlier call."""
    folder = tmp_path / "kept"
    run("evaluate", run_folder, photos, "--keep-pictures", folder, "--device", "cpu")
    return folder


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def again(run_folder: Path, images: Path, folder: Path, *more: object) -> list[object]:
    options = ("--keep-pictures", folder, "--force", "--device", "cpu", *more)
    return ["evaluate", run_folder, images, *options]


def test_pictures_of_an_earlier_call_are_replaced(
    run_folder: Path, photos: Path, kept: Path
) -> None:
    (kept / "samples").mkdir()
    for name in ("samples/000000.png", "samples/.000001.png.4711.tmp", "notes.txt"):
        (kept / name).write_text("of an earlier call")
    before = files_below(kept)
    run(*again(run_folder, photos, kept, "--limit", 2, "--size", 32))
    after = files_below(kept)
    assert sorted(str(file.relative_to(kept)) for file in after) == [
        "notes.txt", "real/000000.png", "real/000001.png",
        "reconstructions/000000.png", "reconstructions/000001.png",
    ]  # fmt: skip
    assert after[kept / "notes.txt"] == before[kept / "notes.txt"]
    assert not (kept / "samples").exists()
    with Image.open(kept / "real" / "000000.png") as picture:
        assert picture.size == (32, 32)


@pytest.mark.parametrize("role", ["images", "samples", "list", "folder above", "linked"])
def test_what_is_to_be_read_is_not_removed(
    run_folder: Path,
    photos: Path,
    kept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    monkeypatch.setattr(figures_of, "inception_weights", lambda weights: weights)
    images, more = photos, []
    if role == "images":
        images = kept / "real"
    elif role == "samples":
        (kept / "real").rename(kept / "samples")
        more = ["--metrics", "fid", "--samples", kept / "samples"]
    elif role == "list":
        images = tmp_path / "list.txt"
        images.write_text(f"{kept}/real/000001.png\n")
    elif role == "folder above":
        images = kept
    elif role == "linked":
        images = tmp_path / "link"
        images.symlink_to(kept / "real")
    before = files_below(tmp_path)
    told = fails(capsys, *again(run_folder, images, kept, *more))
    assert "is to be read and would be replaced; give --keep-pictures another folder" in told
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("name", ["real/photo.png", "samples/000001.jpg", "real/below/000000.png"])
def test_pictures_of_the_user_are_not_removed(
    run_folder: Path, photos: Path, kept: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (kept / name).parent.mkdir(exist_ok=True)
    (kept / name).write_text("precious")
    before = files_below(kept)
    told = fails(capsys, *again(run_folder, photos, kept))
    assert f"evaluate did not write {kept / '/'.join(name.split('/')[:2])}" in told
    assert files_below(kept) == before


def test_a_link_in_the_place_of_a_folder_is_not_followed(
    run_folder: Path, photos: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kept / "real").rename(tmp_path / "elsewhere")
    (kept / "real").symlink_to(tmp_path / "elsewhere")
    assert "is no folder that evaluate wrote" in fails(capsys, *again(run_folder, photos, kept))
    assert len(files_below(tmp_path / "elsewhere")) == 3


def test_a_kept_picture_is_whole_or_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PictureFolder(tmp_path, kept=True)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    folder.save("real", images, 7)
    before = files_below(tmp_path)
    assert [file.name for file in before] == ["000007.png"]

    def full_disk(self: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half a")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="disk full"):
        folder.save("real", images, 7)
    assert files_below(tmp_path) == before
