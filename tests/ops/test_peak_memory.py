from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peak_memory.py"


def test_a_training_step_holds_at_most_two_codebooks_more_than_it_returns() -> None:
    output = subprocess.run(
        [sys.executable, str(SCRIPT), "16384", "16384", "64"],
        check=True,
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
    ).stdout
    measured = json.loads(output)
    assert measured["codebook"] == 16384 * 64 * 4
    for part in ("step", "forward", "backward"):
        assert measured[part] <= 2 * measured["codebook"], measured
    # A measurement that sees nothing would pass as well.
    assert 0.9 < measured["one_codebook"] / measured["codebook"] < 1.3, measured
