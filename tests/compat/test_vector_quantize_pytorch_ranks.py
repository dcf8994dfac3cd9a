"""Two gloo ranks: our synchronised quantisers beside the package's, and ranks beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vq_pytorch_two_ranks

HERE = Path(__file__).parent


def test_two_ranks_agree_with_the_package_and_each_other(tmp_path: Path) -> None:
    path = [HERE.parent.parent, HERE, os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, vq_pytorch_two_ranks.__file__]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, errors
    assert [line.split(":")[0] for line in outputs[0][0].splitlines()] == list(
        vq_pytorch_two_ranks.CASES
    )
