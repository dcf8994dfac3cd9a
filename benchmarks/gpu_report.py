"""Puts together what gpu_check.sh found: gpu_<card>.json and .md, in FOLDER and benchmarks/results.

    python benchmarks/gpu_report.py FOLDER

FOLDER has `steps`, NAME=OUTCOME a line, of which a name's last counts, and speed.json and
exactness.json, where those steps came so far. Needs nothing that is built or installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
UNKNOWN = "unknown"


def told_by(command: list[str]) -> str:
    """What a program prints; "" where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit() -> str:
    return os.environ.get("COMMIT") or told_by(["git", "rev-parse", "HEAD"]) or UNKNOWN


def card() -> dict[str, str]:
    """Name, driver and clocks as the driver tells them; nothing of this starts a CUDA context."""
    fields = ("name", "driver_version", "compute_cap", "clocks.max.sm", "power.limit")
    told = told_by(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"])
    values = [value.strip() for value in told.split("\n")[0].split(",")]
    return dict(zip(fields, values if len(values) == len(fields) else [UNKNOWN] * 5, strict=True))


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def write(path: Path, report: dict[str, Any]) -> None:
    """As a whole: whoever writes may be killed in the middle of it."""
    begun = path.with_name(path.name + ".tmp")
    begun.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(begun, path)


def read_steps(folder: Path) -> dict[str, str]:
    lines = (folder / "steps").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def merge(results: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    """Measurements take the place of earlier ones; an error does not, and stands beside them. The
    contenders of a shape stay together."""

    def shape(row: dict[str, Any]) -> tuple:
        return tuple(row[part] for part in ("N", "K", "D", "dtype"))

    for new in more:
        same = [place for place, row in enumerate(results) if shape(row) == shape(new)]
        here = next((place for place in same if results[place]["name"] == new["name"]), None)
        if here is None:
            results.insert(same[-1] + 1 if same else len(results), new)
        elif "error" not in new or "error" in results[here]:
            results[here] = new
        else:
            results[here]["later_error"] = new["error"]


def failed(row: dict[str, Any]) -> bool:
    """Whether ours is not what it promises. What peers do is told alone, and so is a later error:
    behind an illegal access of a peer, everyone has one."""
    exact = row["name"].split()[0] == "exact"
    if not exact and row["name"] != "fast":
        return False
    return "error" in row or (exact and row["wrong"] > 0)


def table(results: list[dict[str, Any]], peaks: dict[str, float]) -> str:
    """Of gpu_speed.py."""
    lines = [
        "| N x K x D | dtype | contender | ms | / exact | wrong indices | note |",
        "|---|---|---|---|---|---|---|",
    ]
    exact: dict[tuple, float] = {}
    for row in results:
        key = (row["N"], row["K"], row["D"], row["dtype"])
        where = f"{key[0]} x {key[1]} x {key[2]} | {key[3]} | {row['name']}"
        if "error" in row:
            lines.append(f"| {where} | | | | {row['error']} |")
            continue
        if row["name"] == "exact":
            exact[key] = row["ms"]
        notes = [] if row["graph"] else ["no graph"]
        if row.get("alone"):
            notes.append("not in turn with the others")
        if "later_error" in row:
            notes.append(f"later {row['later_error']}")
        if "goal_ms" in row:
            notes.append(
                f"goal {row['goal_ms']}: {'met' if row['ms'] <= row['goal_ms'] else 'missed'}"
            )
        if "flops" in row:
            notes.append(f"{row['flops'] / peaks['bf16_flops']:.0%} of the bf16 rate")
        ratio = f"{row['ms'] / exact[key]:.2f}" if key in exact else ""
        note = ", ".join(notes)
        lines.append(f"| {where} | {row['ms']:.4f} | {ratio} | {row['wrong']:.3%} | {note} |")
    return "\n".join(lines)


def kernels(results: list[dict[str, Any]]) -> list[str]:
    """What the milliseconds of "exact" go to, a line for each shape; launches are not in it."""
    lines = []
    for row in results:
        if times := row.get("kernels_ms"):
            longest = sorted(times.items(), key=lambda pair: -pair[1])
            told = ", ".join(f"{name} {ms:.4f}" for name, ms in longest)
            lines.append(f"- {row['N']} x {row['K']} x {row['D']} {row['dtype']}: {told}")
    return lines


def told_of_ways(ways: dict[str, dict[str, Any]]) -> list[str]:
    """Of gpu_exactness.py: what each way found for each type, beside the rows of all."""
    return [
        f"by {name}: {found['wrong']} of {found['rows']:,}"
        + (f", then {found['error']}" if "error" in found else "")
        for name, found in ways.items()
    ]


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
    exactness = report["exactness"] or {}
    for name, what in (("random", "fp64"), ("hard", "the CPU")):
        if found := exactness.get(name):
            lines += ["", f"{found['rows']:,} {name} rows against {what}: {found['wrong']} differ."]
            lines += [f"- {line}" for line in told_of_ways(found.get("ways", {}))]
    if speed := report["speed"]:
        peaks = speed["peaks"]
        lines += [
            "",
            f"Copy {peaks['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 product "
            f"{peaks['bf16_flops'] / 1e12:.0f} TFLOP/s; torch {speed['torch']}. Medians of graph "
            "replays, one behind the other; L2 warm where the inputs fit it.",
            "",
            table(speed["results"], peaks),
            "",
            "Milliseconds of the kernels of `exact`:",
            "",
            *kernels(speed["results"]),
        ]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    report = {
        "card": card(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "steps": read_steps(folder),
        "exactness": read(folder / "exactness.json"),
        "speed": read(folder / "speed.json"),
    }
    name = "gpu_" + re.sub(r"[^A-Za-z0-9]+", "_", report["card"]["name"])
    RESULTS.mkdir(exist_ok=True)
    for place in (folder, RESULTS):
        write(place / f"{name}.json", report)
        (place / f"{name}.md").write_text(markdown(report))
    print(markdown(report))
    print(f"wrote {RESULTS / name}.json and .md")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
