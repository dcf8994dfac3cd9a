"""The program as a whole: its help, its exit status, what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from commands import fails, run

from vqgan_fast import cli, info


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


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["sample", "runs/gpt", "--nubmer", "2"], "--nubmer 2; did you mean --number?"),
        (["train", "x.yaml", "--optim.steps=3"], "written optim.steps=3, without dashes"),
        (["train", "x.yaml", "--optim.steps", "3"], "written optim.steps=VALUE, without dashes"),
        (["info", "--zzz"], "unrecognized arguments: --zzz\n"),
    ],
)
def test_an_unknown_option_is_told_with_what_was_meant(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.parse(argv)
    told = capsys.readouterr().err
    assert expected in told
    assert f"usage: vqgan-fast {argv[0]}" in told


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


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("json.loads('{')", "Expecting property name"),
        ("int('x')", "invalid literal"),
        ("open('nowhere')", "No such file"),
        ("__import__('no_such_package')", "no_such_package"),
    ],
)
def test_an_error_that_the_package_did_not_raise_names_the_way_to_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, text: str
) -> None:
    inside = {"__name__": "vqgan_fast.made_up", "json": json}
    monkeypatch.setattr(info, "collect", eval(f"lambda: {fault}", inside))
    told = fails(capsys, "info")
    assert text in told
    assert told.endswith("Error; --traceback shows where it came up)\n")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("where", ["here", "there", "in a library"])
def test_an_error_that_the_package_raised_is_the_message_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    from vqgan_fast.data import DataError, list_images, rank_positions

    def elsewhere() -> None:
        raise DataError("what a loader's process sent")

    faults = {
        "here": lambda: rank_positions(0, 1, rank=3, world_size=2),  # a plain ValueError
        "there": lambda: list_images("nowhere"),
        "in a library": elsewhere,
    }
    monkeypatch.setattr(info, "collect", faults[where])
    assert "--traceback" not in fails(capsys, "info")


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


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_info_tells_of_a_stdout_that_is_full(options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vqgan_fast", "info", *options], stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == cli.USER_ERROR
    assert done.stderr == "vqgan-fast info: stdout cannot be written: No space left on device\n"


def test_info_tells_of_a_torch_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise OSError("libcudart.so.13: cannot open")')
    path = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[2])])
    command = [sys.executable, "-m", "vqgan_fast", "info"]
    for options in ([], ["--json"]):
        done = subprocess.run(
            [*command, *options], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "torch does not import: libcudart.so.13: cannot open" in done.stdout
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["advice"] == "pip install --force-reinstall torch"


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
