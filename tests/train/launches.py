"""What tests of launches share: starting `elastic.py`, and comparing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import elastic
import torch
from safetensors.torch import load_file
from tiny import read_metrics

HERE = Path(__file__).parent


def run_launches(folder: Path, launches: list[dict[str, Any]]) -> tuple[list[str], str]:
    """Runs one launch after the other; what each ended with, and all that was said."""
    file = folder / "launches.json"
    file.write_text(json.dumps(launches))
    path = [HERE.parent.parent, HERE.parent, HERE, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, elastic.__file__, file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["outcome"] for line in done.stdout.splitlines()], done.stderr


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """The exported weights of either stage."""
    (file,) = (*run_dir.glob("vqgan/*.safetensors"), *run_dir.glob("model/gpt/*.safetensors"))
    return load_file(file)


def assert_same_run(run_dir: Path, expected_dir: Path) -> None:
    """The same log at every step and the same weights, bit for bit."""
    assert read_metrics(run_dir) == read_metrics(expected_dir)
    expected = weights(expected_dir)
    assert all(torch.equal(value, expected[key]) for key, value in weights(run_dir).items())
