"""The command line: its help, its results, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqgan_fast import GPT, VQGAN, LatentTransformer, cli, info
from vqgan_fast.data import read_codes
from vqgan_fast.models.conditions import SOSCondition

FACTOR, WINDOW, CODES = 2, 4, 16


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these only make threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(
        codebook_size=CODES,
        embed_dim=4,
        ch=32,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        resolution=FACTOR * WINDOW,
        z_channels=4,
    ).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, vqgan: VQGAN) -> Path:
    """A folder with a run of each stage, as training leaves them, of untrained weights."""
    folder = tmp_path_factory.mktemp("trained")
    vqgan.save_pretrained(folder / "stage1" / "vqgan")
    gpt = GPT(CODES, WINDOW**2 + 1, n_layer=1, n_head=2, n_embd=16)
    LatentTransformer(vqgan, SOSCondition(), gpt).save_pretrained(folder / "stage2" / "model")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (20, 31), "b.png": (16, 16)}.items():
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture."""
    with Image.open(path) as picture:
        return picture.size


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must end with status 2 and one message; returns the message."""
    assert cli.main([str(part) for part in argv]) == cli.USER_ERROR
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.splitlines()[-1].startswith(f"vqgan-fast {argv[0]}: ")
    return message


def run(*argv: object) -> None:
    assert cli.main([str(part) for part in argv]) == 0


# --- the program as a whole ---------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_says_what_it_does_and_shows_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        cli.main([name, "--help"])
    assert status.value.code == 0
    text = capsys.readouterr().out
    assert cli.COMMANDS[name].DESCRIPTION in text
    assert cli.COMMANDS[name].EXAMPLES in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_in_the_help_can_be_parsed(name: str) -> None:
    for line in cli.COMMANDS[name].EXAMPLES.splitlines():
        command = line.split("|")[0].split()
        if command[:1] == ["torchrun"]:
            command = command[command.index("vqgan_fast") :]
        if command[0] in ("vqgan-fast", "vqgan_fast"):
            assert cli.parse(command[1:]).command in cli.COMMANDS


def test_help_lists_every_command_and_loads_no_torch() -> None:
    program = (
        "import sys\n"
        "from vqgan_fast.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as status:\n    assert status.code == 0\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for name, module in cli.COMMANDS.items():
        assert name in done.stdout
        assert module.SUMMARY.split()[0] in done.stdout


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vqgan_fast", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("vqgan_fast ")


@pytest.mark.parametrize("argv", [[], ["paint"], ["sample"], ["info", "--yaml"]])
def test_wrong_usage_exits_with_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        cli.main(argv)
    assert status.value.code == 2
    assert "usage: vqgan-fast" in capsys.readouterr().err


def test_traceback_shows_where_an_error_came_up(tmp_path: Path) -> None:
    for argv in (["--traceback", "train", "no.yaml"], ["train", "no.yaml", "--traceback"]):
        with pytest.raises(ValueError, match=r"no\.yaml"):
            cli.main(argv)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(info, "collect", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["info"])


def test_missing_perceptual_weights_are_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqgan_fast.losses import PerceptualWeightsError

    def unreachable() -> None:
        raise PerceptualWeightsError("fetch them there")

    monkeypatch.setattr(info, "collect", unreachable)
    assert "fetch them there" in fails(capsys, "info")


def test_interruption_exits_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "collect", interrupted)
    assert cli.main(["info"]) == cli.INTERRUPTED == 130
    assert "interrupted" in capsys.readouterr().err


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("info", "--json")
    told = json.loads(capsys.readouterr().out)
    version = metadata.version("torch")
    assert told["versions"]["torch"] == version
    run("info")
    assert version in capsys.readouterr().out


# --- train --------------------------------------------------------------------------------------


def test_train_reports_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.yaml"
    assert str(missing) in fails(capsys, "train", missing)
    config = tmp_path / "vqgan.yaml"
    config.write_text("stage: vqgan\nmodel:\n  codebok_size: 3\n")
    assert "codebook_size" in fails(capsys, "train", config)


def test_settings_may_stand_behind_resume() -> None:
    args = cli.parse(["train", "c.yaml", "a=1", "--resume", "b=2", "c.d=3"])
    assert (args.overrides, args.resume) == (["a=1", "b=2", "c.d=3"], True)
    with pytest.raises(SystemExit):
        cli.parse(["train", "c.yaml", "--resume", "surplus"])


# --- sample -------------------------------------------------------------------------------------


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
        (("--grid", "3x10"), "at least as large as the window"),
        (("--top-k", "17"), "top_k must be at most the 16 codes, got 17"),
        (("--temperature", "-1"), "temperature"),
        (("--guidance", "2"), "uncond must be given"),
        (("--best-of", "2"), "--best-of must be at least --number 4, got 2"),
        (("--classifier", "resnet18", "no.pth"), "give --best-of"),
        (("--best-of", "8", "--classifier", "resnet18", "no.pth"), "needs --label"),
        (("--label", "8"), "--label needs --classifier"),
        (("--schedule", "native"), "schedule must be"),
        (("--mask", "hole.png"), "--mask needs --complete"),
        (("--complete", "no.png"), "there is no picture no.png"),
        (("--top-p", "1.5"), "top_p"),
        (("--size", "8x21"), "multiples of the downsampling factor 2, got (8, 21)"),
        (("--device", "nonsense"), "--device nonsense"),
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
    assert not out.exists()


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


def test_sample_needs_a_transformer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no trained transformer" in fails(capsys, "sample", trained / "stage1")
    assert "there is no folder" in fails(capsys, "sample", tmp_path / "nothing")


@pytest.mark.parametrize("text", ["16", "x4", "4x", "0.5x4", "-1x4"])
def test_sample_grid_must_be_height_x_width(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["sample", "runs/gpt", f"--grid={text}"])
    assert "height x width" in capsys.readouterr().err


def test_nothing_is_overwritten_without_force(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, codes = tmp_path / "out", tmp_path / "codes.safetensors"
    for command, file in (
        (("sample", trained / "stage2", "--number", 2, "--output", out), out / "grid.png"),
        (
            ("reconstruct", trained / "stage1", photos / "a.png", "--output", out),
            out / "a_reconstruction.png",
        ),
        (("tokenize", trained / "stage1", photos, "--output", codes), codes),
    ):
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
        message = fails(capsys, *command)
        assert str(file) in message
        assert "--force" in message
        assert file.read_text() == "precious"
        run(*command, "--force")
        assert file.read_bytes() != b"precious"


# --- reconstruct --------------------------------------------------------------------------------


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


# --- tokenize -----------------------------------------------------------------------------------


def test_tokenize_writes_the_codes_that_stage_2_trains_from(
    trained: Path, photos: Path, tmp_path: Path, vqgan: VQGAN
) -> None:
    codes = tmp_path / "codes.safetensors"
    side = FACTOR * WINDOW
    run("tokenize", trained / "stage1", photos, "--output", codes, "--resize", 0)
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
