"""`vqgan-fast reconstruct` and `tokenize`: pictures to codes and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CODES, FACTOR, WINDOW, fails, pixels_of, run, size_of
from PIL import Image
from tiny_vqgan import tiny_vqgan

from vqgan_fast import VQGAN
from vqgan_fast.data import read_codes


def test_reconstruct_writes_pairs_and_tells_psnr(
    trained: Path, photos: Path, tmp_path: Path, vqgan: VQGAN, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("reconstruct", trained / "stage1", photos, photos / "b.png", "--output", out)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "all pixels of 3 pictures" in lines[-1]
    names = {"a_reconstruction.png", "b_reconstruction.png", "b_2_reconstruction.png"}
    assert {file.name for file in out.iterdir()} == names

    pair = pixels_of(out / "b_reconstruction.png")
    original = pixels_of(photos / "b.png")
    assert pair.shape == (16, 2 * 16 + 4, 3)
    assert (pair[:, :16] == original).all()
    x = torch.from_numpy(original).movedim(-1, 0)[None] / 127.5 - 1
    with torch.no_grad():
        x_hat = vqgan(x)[0].clamp(-1, 1)
    error = float((x - x_hat).square().mean()) / 4
    assert float(lines[1].split()[0]) == pytest.approx(-10 * np.log10(error), abs=0.006)
    shown = torch.from_numpy(pair[:, 20:]).movedim(-1, 0)[None] / 127.5 - 1
    assert (shown - x_hat).abs().max() < 1.01 / 127.5


def test_reconstruct_keeps_odd_sizes_and_resizes(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    run("reconstruct", trained / "stage1", photos / "a.png", "--output", tmp_path / "kept")
    assert size_of(tmp_path / "kept" / "a_reconstruction.png") == (2 * 31 + 4, 20)
    stage2 = trained / "stage2"
    run("reconstruct", stage2, photos / "a.png", "--resize", 10, "--output", tmp_path / "small")
    assert size_of(tmp_path / "small" / "a_reconstruction.png")[1] == 10


def test_reconstruct_skips_and_counts_what_it_cannot_read(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])
    run("reconstruct", trained / "stage1", photos, "--output", tmp_path / "out")
    told = capsys.readouterr()
    assert "1 skipped" in told.out
    assert "broken.png" in told.err
    message = fails(
        capsys,
        "reconstruct", trained / "stage1", photos / "broken.png", "--output", tmp_path / "none",
    )  # fmt: skip
    assert "none of the 1 pictures can be read" in message


def test_reconstruct_reports_missing_things(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone.png"
    assert str(gone) in fails(capsys, "reconstruct", trained / "stage1", gone)
    assert "no trained VQGAN" in fails(capsys, "reconstruct", tmp_path, gone)
    damaged = tmp_path / "damaged" / "vqgan"
    damaged.mkdir(parents=True)
    (damaged / "config.json").write_text("{")
    assert "not valid JSON" in fails(capsys, "reconstruct", damaged.parent, gone)


@pytest.mark.parametrize("command", ["reconstruct", "tokenize"])
def test_a_vqgan_of_maps_takes_no_pictures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    tiny_vqgan(CODES, channels=5).save_pretrained(tmp_path / "maps")
    message = fails(capsys, command, tmp_path / "maps", photos, "--output", tmp_path / "out")
    assert "maps is a VQGAN of maps with 5 channels, not of pictures; " in message
    assert not (tmp_path / "out").exists()


def test_tokenize_writes_the_codes_that_stage_2_trains_from(
    trained: Path, photos: Path, tmp_path: Path, vqgan: VQGAN
) -> None:
    codes = tmp_path / "codes.safetensors"
    side = FACTOR * WINDOW
    # Not on a GPU, whose convolutions round otherwise.
    run("tokenize", trained / "stage1", photos, "--output", codes, "--resize", 0, "--device", "cpu")
    tokens = read_codes(codes).tokens
    assert tokens.shape == (2, WINDOW, WINDOW)
    original = pixels_of(photos / "b.png")
    middle = torch.from_numpy(original[4 : 4 + side, 4 : 4 + side]).movedim(-1, 0)
    with torch.no_grad():
        expected = vqgan.encode_indices(middle[None] / 127.5 - 1)
    assert torch.equal(tokens[1:].long(), expected)

    config = tmp_path / "transformer.yaml"
    config.write_text(
        "stage: transformer\n"
        "gpt: {n_layer: 1, n_head: 1, n_embd: 8}\n"
        "data: {batch_size: 2}\n"
        "optim: {steps: 2, learning_rate: 0.001}\n"
        "log: {tensorboard: false, progress: false}\n"
    )
    run(
        "train", config, f"first_stage={trained / 'stage1'}", f"data.codes={codes}",
        f"run_dir={tmp_path / 'gpt'}",
    )  # fmt: skip
    run("sample", tmp_path / "gpt", "--number", 2)
    assert (tmp_path / "gpt" / "samples" / "grid.png").is_file()


def test_tokenize_random_crops(trained: Path, photos: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, file in enumerate(files):
        run(
            "tokenize", trained / "stage1", photos, "--crops", 3, "--flip", "--seed", seed,
            "--resize", 0, "--output", file,
        )  # fmt: skip
    first, second = (read_codes(file).tokens for file in files)
    assert first.shape == second.shape == (6, WINDOW, WINDOW)
    assert not torch.equal(first, second)


def test_tokenize_refuses(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    stage1, codes = trained / "stage1", tmp_path / "codes.safetensors"
    assert str(empty) in fails(capsys, "tokenize", stage1, empty, "--output", codes)
    for argument, value, expected in (
        ("--size", 7, "multiple of the downsampling factor 2, got 7"),
        ("--crops", 0, "--crops must be at least 1"),
        ("--batch", -1, "--batch must be at least 1"),
    ):
        message = fails(capsys, "tokenize", stage1, photos, "--output", codes, argument, value)
        assert expected in message
    message = fails(capsys, "tokenize", stage1, photos, "--output", tmp_path / "codes.pt")
    assert ".safetensors" in message
    assert not codes.exists()


def test_reconstruct_takes_a_picture_of_one_code(
    trained: Path, photos: Path, tmp_path: Path, vqgan: VQGAN
) -> None:
    """The only value of a group of the encoder's norm: as in a batch of two, its bias remains."""
    Image.new("RGB", (1, 2), (200, 40, 90)).save(photos / "a_point.png")
    run("reconstruct", trained / "stage1", photos, "--output", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    x = torch.tensor([200, 40, 90]).view(1, 3, 1, 1).expand(2, 3, 2, 2) / 127.5 - 1
    with torch.no_grad():
        two = vqgan(x)[0]
        torch.testing.assert_close(vqgan(x[:1])[0], two[:1], atol=1e-5, rtol=1e-5)
    pixel = torch.from_numpy(pixels_of(tmp_path / "out" / "a_point_reconstruction.png")[:, -1:])
    expected = (two[0, :, :, :1].clamp(-1, 1) + 1) * 127.5
    assert (pixel.movedim(-1, 0) - expected).abs().max() < 0.51
