"""What benchmarks/gpu_check.sh writes, from made-up measurements: no GPU is needed to see that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

PEAKS = {"copy_bytes_per_s": 4.3e12, "bf16_flops": 7.9e14}
SHAPE = {"N": 65536, "K": 16384, "D": 256, "dtype": "float32"}
RESULTS = [
    SHAPE
    | {"name": "exact", "ms": 1.0, "wrong": 0.0, "graph": True, "goal_ms": 1.15, "flops": 5.5e14},
    SHAPE | {"name": "torch addmm + argmin", "ms": 12.5, "wrong": 0.001, "graph": False},
    SHAPE | {"name": "torch cdist + argmin", "error": "OutOfMemoryError: no memory"},
]


def test_the_table_tells_ratios_goals_and_what_failed():
    from gpu_speed import table

    lines = table(RESULTS, PEAKS).splitlines()[2:]
    assert "| 1.0000 | 1.00 | 0.000% | goal 1.15: met, 70% of the bf16 rate |" in lines[0]
    assert "| 12.5000 | 12.50 | 0.100% | no graph |" in lines[1]
    assert "no memory" in lines[2]
    slow = [RESULTS[0] | {"ms": 1.2}]
    assert "missed" in table(slow, PEAKS)


def test_the_report_names_card_commit_steps_and_mismatches():
    from gpu_report import markdown

    report = {
        "card": {
            "name": "Card",
            "driver_version": "1",
            "compute_cap": "9.0",
            "clocks.max.sm": "1980 MHz",
            "power.limit": "700 W",
        },
        "date": "2026-01-01",
        "commit": "abc",
        "steps": {"build": "passed (3 s)", "racecheck": "failed (9 s)"},
        "exactness": {"random": {"rows": 10**8, "wrong": 0}, "hard": {"rows": 10, "wrong": 2}},
        "speed": {"peaks": PEAKS, "torch": "2", "results": RESULTS},
    }
    text = markdown(report)
    assert "commit abc" in text and "| racecheck | failed (9 s) |" in text
    assert "100,000,000 random rows against fp64: 0 differ." in text
    assert "10 hard rows against the CPU: 2 differ." in text
    nothing_measured = markdown(report | {"exactness": None, "speed": None})
    assert "| build | passed (3 s) |" in nothing_measured


def test_without_a_gpu_the_script_says_so(tmp_path):
    script = ROOT / "benchmarks" / "gpu_check.sh"
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))  # and no nvidia-smi
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(["/bin/bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "this needs an NVIDIA GPU" in done.stderr
    done = subprocess.run(["/bin/bash", script, "--fast"], capture_output=True, text=True)
    assert done.returncode == 2 and "--quick" in done.stderr
