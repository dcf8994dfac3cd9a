"""Two gloo ranks: our synchronised quantisers beside the package's, and ranks beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vq_pytorch_two_ranks

HERE = Path(__file__).parent


def test_two_ranks_agree_with_the_package_and_each_other() -> None:
    path = [HERE.parent.parent, HERE, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            vq_pytorch_two_ranks.__file__,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(
        vq_pytorch_two_ranks.CASES
    )
