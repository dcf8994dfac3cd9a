"""`vqgan-fast sample`: its options, its pictures, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FACTOR, WINDOW, fails, pixels_of, run, size_of
from PIL import Image

from vqgan_fast import LatentTransformer, cli


def test_sample_writes_one_picture_for_each_seed(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("sample", trained / "stage2", "--number", 3, "--seed", 5, "--batch", 2, "--output", out)
    names = [f"seed_{seed:06d}.png" for seed in (5, 6, 7)]
    assert sorted(file.name for file in out.iterdir()) == ["grid.png", *names]
    side = FACTOR * WINDOW
    assert size_of(out / names[0]) == (side, side)

    alone = tmp_path / "alone"
    run("sample", trained / "stage2" / "model", "--number", 1, "--seed", 6, "--output", alone)
    assert [file.name for file in alone.iterdir()] == [names[1]]
    assert (alone / names[1]).read_bytes() == (out / names[1]).read_bytes()
    assert (out / names[0]).read_bytes() != (out / names[1]).read_bytes()


@pytest.mark.parametrize("argument", [("--grid", "4x10"), ("--size", "8x20")])
def test_sample_larger_than_the_window(
    trained: Path, tmp_path: Path, argument: tuple[str, str]
) -> None:
    run("sample", trained / "stage2", "--number", 1, *argument, "--output", tmp_path)
    assert size_of(tmp_path / "seed_000000.png") == (20, 8)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--grid", "3x10"), "got 3 x 10; or give a smaller window"),
        (("--top-k", "17"), "--top-k must be at most the 16 codes, got 17"),
        (("--guidance", "2"), "unconditional: there is no condition to guide by"),
        (("--best-of", "2"), "--best-of must be at least --number 4, got 2"),
        (("--best-of", "8", "--preview", "4"), "--preview is for pictures that are all kept"),
        (("--stride", "2"), 'stride must be None without schedule = "block", got 2'),
        (("--classifier", "resnet18", "no.pth"), "give --best-of"),
        (("--best-of", "8", "--classifier", "resnet18", "no.pth"), "needs --label"),
        (("--label", "8"), "--label needs --classifier"),
        (("--schedule", "native"), "schedule must be"),
        (("--cond", "0", "--uncond", "3"), "--uncond needs --guidance, a number other than 1"),
        (("--mask", "hole.png"), "--mask needs --complete"),
        (("--complete", "no.png"), "there is no picture no.png"),
        (("--size", "8x21"), "--size must be multiples of the downsampling factor 2, got 8x21"),
        (("--device", "nonsense"), "--device nonsense"),
        (("--cond=--3",), "--cond must be left out: this model has no classes, got --3"),
        (("--cond", "3"), "--cond must be 0, what a model without a condition starts from, or be"),
    ],
)
def test_sample_refuses(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    expected: str,
) -> None:
    out = tmp_path / "out"
    message = fails(capsys, "sample", trained / "stage2", "--output", out, *arguments)
    assert expected in message
    if arguments[0] in ("--top-k", "--size"):
        assert message.count("\n") == 1  # no bar was begun
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--top-k", "0"), "--top-k: expected an integer of at least 1, got 0"),
        (("--top-p", "2"), "--top-p: expected a share in (0, 1], got 2"),
        (("--min-p", "0"), "--min-p: expected a share in (0, 1], got 0"),
        (("--temperature", "-1"), "--temperature: expected a finite number of at least 0, got -1"),
        (("--tile", "1"), "--tile: expected an integer of at least 2, got 1"),
    ],
)
def test_a_number_out_of_range_is_wrong_usage(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], expected: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["sample", str(trained / "stage2"), *arguments])
    assert raised.value.code == cli.USER_ERROR
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("size", ["--grid=60000x60000", "--size=120000x120000"])
def test_pictures_that_no_memory_can_hold_are_refused(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: str,
) -> None:
    sizes = {"SC_PAGE_SIZE": 4000, "SC_PHYS_PAGES": 16 * 10**6}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    argv = ["sample", trained / "stage2", "--output", tmp_path / "out", size, "--batch", 2]
    assert "2 x 120000 x 120000 pixels take 346 GB, this machine has 64 GB" in fails(capsys, *argv)


def test_sample_takes_every_option(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vqgan_fast import sampling

    seen, sample = [], sampling.sample
    monkeypatch.setattr(
        sampling,
        "sample",
        lambda *args, **options: seen.append(options) or sample(*args, **options),
    )

    def pictures(*arguments: object) -> list[bytes]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        argv = ["sample", trained / "stage2", "--grid", "4x9", "--number", 1, "--output", out]
        run(*argv, *arguments)
        return [file.read_bytes() for file in sorted(out.iterdir())]

    plain = pictures()
    assert pictures("--order", "raster", "--cache-gb", 0.001, "--preview", 7) == plain
    assert (seen[-1]["order"], seen[-1]["max_cache_bytes"]) == ("raster", 10**6)
    assert seen[-1]["preview_every"] == 7
    assert pictures("--cond", 0, "--guidance", 1) == plain
    pictures("--schedule", "block", "--stride", 2, "--weights", "bfloat16", "--tile", 8)
    assert (seen[-1]["schedule"], seen[-1]["stride"], seen[-1]["tile"]) == ("block", 2, 8)
    assert seen[-1]["transformer"].weights == "bfloat16"
    pictures("--cond", 0, "--uncond", 3, "--guidance", "1:5")
    assert [seen[-1]["guidance"](share) for share in (0, 0.5)] == [1, 3]
    assert seen[-1]["uncond"].tolist() == [[3]]
    assert seen[-1]["uncond"].dtype == torch.int64
    assert pictures("--greedy") == pictures("--temperature", 0, "--min-p", 0.5)
    assert pictures("--best-of", 3) == pictures("--acceptance-rate", 0.4)

    from torchvision.models import squeezenet1_1

    weights = tmp_path / "weights.pth"
    torch.save(squeezenet1_1(num_classes=3).state_dict(), weights)
    capsys.readouterr()
    pictures("--best-of", 2, "--classifier", "squeezenet1_1", weights, "--label", 2)
    told = capsys.readouterr().out
    assert "log p(class 2)" in told
    assert "kept 1 of 2: acceptance rate 50.00%" in told


def test_sample_completes_a_picture(trained: Path, photos: Path, tmp_path: Path) -> None:
    mask = np.zeros((20, 31), dtype=np.uint8)
    mask[:, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = photos / "a.png"
    for name, arguments in (("half", []), ("hole", ["--mask", tmp_path / "mask.png"])):
        out = tmp_path / name
        run(
            "sample", trained / "stage2", "--complete", picture, "--number", 1, "--output", out,
            *arguments,
        )  # fmt: skip
        assert size_of(out / "seed_000000.png") == (30, 20)
    half, hole = (pixels_of(tmp_path / name / "seed_000000.png") for name in ("half", "hole"))
    assert not np.array_equal(half, hole)


def test_an_interrupted_sample_leaves_what_was_drawn(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqgan_fast.sampling.window_engine import WindowEngine

    advance, calls = WindowEngine.advance, []

    def interrupted(self: WindowEngine, one_pass: list) -> int:
        calls.append(one_pass)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return advance(self, one_pass)

    monkeypatch.setattr(WindowEngine, "advance", interrupted)
    argv = ["sample", trained / "stage2", "--number", 1, "--grid", "4x9", "--order", "raster"]
    status = cli.main([str(part) for part in [*argv, "--output", tmp_path]])
    assert status == cli.INTERRUPTED
    pixels = pixels_of(tmp_path / "seed_000000.png")
    assert pixels.shape == (8, 18, 3)
    assert (pixels[4:] == 128).all()
    assert (pixels[:2] != 128).any()


def test_an_interrupted_choice_leaves_the_best_so_far_and_what_was_drawn(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqgan_fast.sampling.window_engine import WindowEngine

    advance, steps = WindowEngine.advance, 0

    def interrupted(self: WindowEngine, one_pass: list) -> int:
        nonlocal steps
        steps += 1
        if steps == WINDOW**2 + 5:  # in the second batch of two
            raise KeyboardInterrupt
        return advance(self, one_pass)

    monkeypatch.setattr(WindowEngine, "advance", interrupted)
    argv = ["sample", trained / "stage2", "--number", 3, "--best-of", 6, "--batch", 2]
    status = cli.main([str(part) for part in [*argv, "--output", tmp_path]])
    assert status == cli.INTERRUPTED
    complete, partial = (pixels_of(tmp_path / f"best_{rank:03d}.png") for rank in (2, 3))
    assert not (complete == 128).all(-1).any()
    assert (partial == 128).all(-1).any()
    assert not (partial == 128).all()


def test_sample_needs_a_transformer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no trained transformer" in fails(capsys, "sample", trained / "stage1")
    assert "there is no folder" in fails(capsys, "sample", tmp_path / "nothing")


def test_sample_reports_weights_that_diverged(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = LatentTransformer.from_pretrained(trained / "stage2" / "model")
    with torch.no_grad():
        model.transformer.head.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path / "diverged" / "model")
    message = fails(capsys, "sample", tmp_path / "diverged", "--number", 1)
    assert "head.weight holds NaN" in message
    assert not (tmp_path / "diverged" / "samples").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--cache-gb=inf", "expected a finite number above 0, got inf"),
        ("--cache-gb=0", "expected a finite number above 0, got 0"),
        ("--cache-gb=x", "expected a finite number above 0, got x"),
        ("--acceptance-rate=x", "expected a share in (0, 1], got x"),
        ("--guidance=1:x", "expected a number or two, FROM:TO, such as 3 or 1:4, got '1:x'"),
        ("--number=0", "expected an integer of at least 1, got 0"),
        ("--seed=-1", "--seed: expected an integer of at least 0, got -1"),
        ("--number=x", "expected an integer of at least 1, got x"),
    ],
)
def test_sample_options_that_cannot_be_read(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["sample", "runs/gpt", arguments])
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("text", ["16", "x4", "4x", "0.5x4", "-1x4"])
def test_sample_grid_must_be_height_x_width(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["sample", "runs/gpt", f"--grid={text}"])
    assert "height x width" in capsys.readouterr().err


def test_a_share_is_the_number_that_was_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "sample", trained / "stage2", "--number", 21, "--acceptance-rate", 0.7, "--output", tmp_path
    )
    assert "kept 21 of 30: acceptance rate 70.00%" in capsys.readouterr().out


def test_seeds_of_the_best_are_those_that_were_given(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sample", trained / "stage2", "--number", 2, "--seed", 2**63 - 1, "--best-of", 2]
    run(*argv, "--output", tmp_path)
    told = capsys.readouterr().out
    assert f"seed {2**63 - 1}," in told
    assert f"seed {2**63}," in told
