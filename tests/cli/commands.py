"""Running commands in tests, and looking at what they wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqgan_fast import cli

# Of the models of conftest.py: pixels along a code's side, codes along a picture's side, codebook.
FACTOR, WINDOW, CODES = 2, 4, 16


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
