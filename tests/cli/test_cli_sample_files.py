"""The files of `vqgan-fast sample`: sheets, sets that grow and go on, folders that take none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import fails, pixels_of, run, size_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sample_pictures import write_pictures

from vqgan_fast import cli
from vqgan_fast.cli import sample, sample_files


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_further_seeds_go_into_the_same_folder_and_the_sheets_are_theirs(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sample", trained / "stage2", "--number", 2, "--output", tmp_path]
    run(*argv)
    first = (tmp_path / "grid.png").read_bytes()
    message = fails(capsys, *argv)
    assert "seed_000001.png exist already; give another --output, another --seed" in message
    run(*argv, "--seed", 2)
    assert names(tmp_path) == ["grid.png", *(f"seed_{seed:06d}.png" for seed in range(4))]
    assert (tmp_path / "grid.png").read_bytes() != first
    assert "2 of other calls lie there, too" in capsys.readouterr().out


def test_a_grid_that_is_not_ours_stays(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.png").write_text("precious")
    argv = ["sample", trained / "stage2", "--number", 2, "--output", tmp_path]
    for more in ([], ["--skip-existing"]):
        assert "grid.png exists already" in fails(capsys, *argv, *more)
    run("sample", trained / "stage2", "--number", 1, "--output", tmp_path)  # has no sheet
    assert (tmp_path / "grid.png").read_text() == "precious"


def test_a_set_goes_on_where_it_was_ended(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vqgan_fast.sampling.window_engine import WindowEngine

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    argv = ["sample", trained / "stage2", "--number", 5, "--batch", 2, "--output"]
    run(*argv, whole)
    advance, steps = WindowEngine.advance, 0

    def interrupted(self: WindowEngine, one_pass: list) -> int:
        nonlocal steps
        steps += 1
        if steps == 20:  # in the second batch
            raise KeyboardInterrupt
        return advance(self, one_pass)

    with monkeypatch.context() as patch:
        patch.setattr(WindowEngine, "advance", interrupted)
        assert cli.main([str(part) for part in [*argv, parts]]) == cli.INTERRUPTED
    assert names(parts) == [f"seed_{seed:06d}.png" for seed in range(4)]
    started = (parts / "seed_000000.png").stat().st_mtime_ns
    assert sample_files.is_unfinished(parts / "seed_000002.png")
    capsys.readouterr()
    run(*argv, parts, "--skip-existing")
    assert "3 pictures of 8 x 8 pixels" in (told := capsys.readouterr().out)
    assert "2 were there" in told
    assert (parts / "seed_000000.png").stat().st_mtime_ns == started
    for name in (f"seed_{seed:06d}.png" for seed in range(5)):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    run(*argv, parts, "--skip-existing")
    assert "all 5 pictures are in" in capsys.readouterr().out
    for more, word in ((["--force"], "contradict"), (["--best-of", 9], "all kept")):
        assert word in fails(capsys, *argv, parts, "--skip-existing", *more)


def test_sheets_show_the_first_pictures_of_many(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["sample", trained / "stage2", "--batch", 3, "--output"]
    run(*argv, tmp_path / "four", "--number", 4)
    for module in (sample, sample_files):
        monkeypatch.setattr(module, "SHOWN", 4)
    run(*argv, tmp_path / "eight", "--number", 8)
    assert "the sheets show the first 4" in capsys.readouterr().out
    assert len(names(tmp_path / "eight")) == 9
    four, eight = (pixels_of(tmp_path / name / "grid.png") for name in ("four", "eight"))
    assert (four == eight).all()
    assert size_of(tmp_path / "eight" / "grid.png") == (20, 20)


def test_a_log_that_is_no_terminal_hears_of_the_pictures(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sample", trained / "stage2", "--number", 4, "--batch", 2, "--output", tmp_path]
    run(*argv)
    assert "4/4" in capsys.readouterr().err
    run(*argv, "--best-of", 4)
    assert "sampling: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sample", "tokenize", "reconstruct"])
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    command: str,
    trained: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vqgan_fast import VQGAN

    for work in ("encode", "decode_indices"):
        monkeypatch.setattr(VQGAN, work, lambda *_, **__: pytest.fail("the model ran"))
    file = tmp_path / "file"
    file.touch()
    run_folder = trained / "stage2"
    for place, reason in ((file, "it is no folder"), (Path("/proc/nothing"), "into /proc")):
        output = place / "codes.safetensors" if command == "tokenize" else place
        argv = [run_folder] if command == "sample" else [run_folder, photos]
        message = fails(capsys, command, *argv, "--output", output)
        assert "--output: nothing can be written" in message
        assert reason in message
    assert names(tmp_path) == ["file", "photos"]


def test_sheets_and_unfinished_pictures_are_no_samples_of_a_distance(
    trained: Path, tmp_path: Path, small_distances: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "photos", 4)
    drawn, file = tmp_path / "drawn", tmp_path / "figures.json"
    run("sample", trained / "stage2", "--number", 4, "--output", drawn)
    (drawn / "page.png").write_bytes((drawn / "grid.png").read_bytes())
    image = Image.open(drawn / "seed_000003.png")
    notes = PngInfo()
    notes.add_text(*sample_files.UNFINISHED)
    image.save(drawn / "seed_000003.png", pnginfo=notes)
    argv = ["evaluate", trained / "stage1", tmp_path / "photos", "--metrics", "fid", "--size", 32]
    run(*argv, "--samples", drawn, "--json", file)
    assert json.loads(file.read_text())["figures"]["samples"] == 3
    told = f"3 samples in {drawn}; 3 left out, sheets and unfinished ones"
    assert told in capsys.readouterr().out


def test_of_other_folders_every_picture_is_a_sample(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    for name in ("grid.png", "page.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert len(sample_files.drawn_pictures(tmp_path)) == 4
