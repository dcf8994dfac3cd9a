"""A disk that is full while a command writes: one message, which names the file."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import fails


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """As this process sees it, what pytest reports to a file too: no file grows beyond `room`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("command", "output", "file"),
    [
        ("sample", "out", "out/seed_000000.png"),
        ("reconstruct", "out", "out/a_reconstruction.png"),
        ("evaluate", "figures.json", "figures.json"),
        ("shard", "out", "out-000000.tar"),
        ("tokenize", "codes.safetensors", "codes.safetensors"),
        ("tokenize", "codes", "codes/job.json"),
    ],
)
def test_the_file_is_named(
    command: str, output: str, file: str, trained: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {"sample": [trained / "stage2"], "shard": [photos]}
    option = ["--size", 32, "--json"] if command == "evaluate" else ["--output"]
    argv = [command, *given.get(command, [trained / "stage1", photos]), *option, tmp_path / output]
    with full_disk(20):
        message = fails(capsys, *argv)
    assert f"{tmp_path / file} cannot be written: File too large" in message
    assert not (tmp_path / file).exists()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("taming", "{}/last.ckpt cannot be written: "),
        ("diffusers", "{}/diffusion_pytorch_model.safetensors cannot be written: "),
        ("vqgan_fast", "the model {} cannot be written: "),
    ],
)
def test_a_converted_model_is_named(
    kind: str, what: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["convert", trained / "stage1", "--to", kind, "--output", tmp_path / "out"]
    with full_disk(1000):  # enough for a configuration
        message = fails(capsys, *argv)
    assert what.format(tmp_path / "out") in message
    assert "is the disk full" in message and message.count("\n") == 1
    with full_disk(0):
        message = fails(capsys, *argv)
    assert f"{tmp_path / 'out'}" in message and message.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())
