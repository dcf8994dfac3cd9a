"""Puts together what gpu_check.sh found: benchmarks/results/gpu_<card>.json and .md.

    python benchmarks/gpu_report.py FOLDER STEP=OUTCOME...

FOLDER has speed.json and exactness.json, where those steps came so far.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpu_speed import table

RESULTS = Path(__file__).resolve().parent / "results"


def card() -> dict[str, str]:
    """Name, driver and clocks as the driver tells them; nothing of this starts a CUDA context."""
    fields = ("name", "driver_version", "compute_cap", "clocks.max.sm", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=True))


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def markdown(report: dict[str, Any]) -> str:
    about = report["card"]
    lines = [
        f"# {about['name']}",
        "",
        f"{report['date']}, commit {report['commit']}; driver {about['driver_version']}, compute "
        f"capability {about['compute_cap']}, {about['clocks.max.sm']} at most, "
        f"{about['power.limit']}.",
        "",
        "| step | outcome |",
        "|---|---|",
        *(f"| {name} | {outcome} |" for name, outcome in report["steps"].items()),
    ]
    if exactness := report["exactness"]:
        for name, what in (("random", "fp64"), ("hard", "the CPU")):
            found = exactness[name]
            lines += ["", f"{found['rows']:,} {name} rows against {what}: {found['wrong']} differ."]
    if speed := report["speed"]:
        peaks = speed["peaks"]
        lines += [
            "",
            f"Copy {peaks['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 product "
            f"{peaks['bf16_flops'] / 1e12:.0f} TFLOP/s; torch {speed['torch']}. Medians of graph "
            "replays, L2 warm where the inputs fit it.",
            "",
            table(speed["results"], peaks),
        ]
    return "\n".join(lines) + "\n"


def main(folder: Path, steps: list[str]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    report = {
        "card": card(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "steps": dict(step.split("=", 1) for step in steps),
        "exactness": read(folder / "exactness.json"),
        "speed": read(folder / "speed.json"),
    }
    name = "gpu_" + re.sub(r"[^A-Za-z0-9]+", "_", report["card"]["name"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown(report))
    print(markdown(report))
    print(f"wrote {RESULTS / name}.json and .md")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
