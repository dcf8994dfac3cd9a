from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqgan_fast import _native

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peak_memory.py"


def measured_by(*arguments: str, **environment: str) -> dict[str, int]:
    output = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
        env=os.environ | environment,
    ).stdout
    return json.loads(output)


def test_a_training_step_holds_at_most_two_codebooks_more_than_it_returns() -> None:
    measured = measured_by("16384", "16384", "64")
    assert measured["codebook"] == 16384 * 64 * 4
    for part in ("step", "forward", "backward"):
        assert measured[part] <= 2 * measured["codebook"], measured
    # A measurement that sees nothing would pass as well.
    assert 0.9 < measured["one_codebook"] / measured["codebook"] < 1.3, measured


@pytest.mark.parametrize(
    ("way", "dim", "code_bytes"),
    [
        ("direct", 8, 0),
        ("boxes", 8, 8 * 4 + 4),
        ("boxes", 3, 3 * 4 + 4),
        ("fp32", 16, 16 * 4 + 4),
        ("int16", 64, 64 * 2 + 4),
        ("int8", 64, 64 + 4),
    ],
)
def test_a_search_holds_one_packed_codebook(way: str, dim: int, code_bytes: int) -> None:
    """Beside it only what the threads need, whether it is dropped again or kept."""
    num_codes = 131072
    measured = measured_by(
        "--search", "nearest_code", "64", str(num_codes), str(dim), VQGAN_FAST_SCREEN=way
    )
    level = _native.cpu_features()["selected"]
    has_sieve = (way, dim) == ("boxes", 8) and level not in ("baseline", "neon", "neondot")
    packed = num_codes * (code_bytes + (20 if has_sieve else 0))
    large_page = 2**21
    for call in ("extra", "second"):
        assert 0.95 * packed <= measured[call] <= 1.08 * packed + large_page, (measured, packed)
    assert measured["third"] <= large_page / 4, measured
