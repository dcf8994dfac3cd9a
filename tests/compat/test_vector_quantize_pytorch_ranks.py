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
    done = subprocess.run(
        [sys.executable, vq_pytorch_two_ranks.__file__, tmp_path / "meeting"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    cases = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert cases == list(vq_pytorch_two_ranks.CASES)
