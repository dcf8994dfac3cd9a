"""The examples run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image
from sample_pictures import write_pictures
from tiny_vqgan import tiny_vqgan

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny_vqgan().save_pretrained(folder / "vqgan")
    return folder


@pytest.mark.parametrize("start", ["picture", "random"])
def test_guided(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    picture = write_pictures(tmp_path / "photos", 1)[0] if start == "picture" else "random"
    output = tmp_path / "out" / "guided.png"
    main = runpy.run_path(str(EXAMPLES / "guided.py"))["main"]
    main([
        str(run_folder), str(picture), "--colour", "0.9", "0.4", "0.2", "--size", "17",
        "--steps", "25", "--output", str(output), "--device", "cpu",
    ])  # fmt: skip
    before, after = (float(part) for part in capsys.readouterr().out.split(";")[0].split()[1::2])
    assert after > before
    with Image.open(output) as found:
        assert found.size == (16, 16)
    assert output.with_suffix(".before_after.png").is_file()


def test_guided_names_what_does_not_fit(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, picture, size, message in (
        (tmp_path / "none", "random", "16", "there is no folder"),
        (run_folder, tmp_path / "none.png", "16", "no such file"),
        (run_folder, "random", "1", "--size must be at least the VQGAN's downsampling factor"),
    ):
        options = ["--size", size, "--colour", "1", "1", "1", "--output", str(tmp_path / "o.png")]
        monkeypatch.setattr("sys.argv", ["guided.py", str(run), str(picture), *options])
        with pytest.raises(SystemExit, match=message):
            runpy.run_path(str(EXAMPLES / "guided.py"), run_name="__main__")


def test_guided_refuses_a_prompt_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    parse = runpy.run_path(str(EXAMPLES / "guided.py"))["parse"]
    with pytest.raises(SystemExit):
        parse(["run", "random", "--prompt", "a cat"])
    assert "--prompt and --clip go together" in capsys.readouterr().err
    assert parse(["run", "random", "--prompt", "a: b:2", "--clip", "c"]).prompt == ["a: b:2"]


def test_prompts_and_their_weights() -> None:
    split = runpy.run_path(str(EXAMPLES / "guided.py"))["prompt_and_weight"]
    assert split("a: b:-0.5") == ("a: b", -0.5)
    assert split("a: b") == ("a: b", 1.0)
    assert split("a cat") == ("a cat", 1.0)
