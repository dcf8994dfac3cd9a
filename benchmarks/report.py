"""Tables and a plot of what the benchmarks measured.

    python -m pytest benchmarks --benchmark-json=runs/bench.json
    python benchmarks/report.py runs/bench.json

writes benchmarks/results/cpu_<CPU>.json, .md and .png (`make bench-cpu` does both), and prints the
goals and the losing shapes. Every figure is a median; every ratio is of one run, in turn. The files
of several --part make one report.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from goals import LISTED, Case, goals, of, shape, where

RESULTS = Path(__file__).with_name("results")


def load(paths: list[Path]) -> dict[str, Any]:
    """The machine, the date and the cases of files that pytest-benchmark wrote on one machine.

    Date and peaks are the first file's. Files of different commits are named with their cases.
    """
    files = [json.loads(path.read_text()) for path in paths]
    machine = files[0]["machine_info"]["vqgan_fast"]
    for path, file in zip(paths, files, strict=True):
        other = file["machine_info"]["vqgan_fast"]
        if any(other[key] != machine[key] for key in ("cpu", "simd", "torch")):
            raise ValueError(f"{path} was not measured like {paths[0]}: {other} against {machine}")
        # Several kinds of CPU can have one name.
        peaks = [about["fma_gflops"]["1"] for about in (machine, other)]
        if max(peaks) > 1.25 * min(peaks):
            raise ValueError(
                f"{path} has another peak than {paths[0]}: {peaks[1]} against {peaks[0]}"
            )
    counts: dict[str, int] = {}
    for file in files:
        commit = file["machine_info"]["vqgan_fast"]["commit"]
        counts[commit] = counts.get(commit, 0) + len(file["benchmarks"])
    if len(counts) > 1:
        commits = ", ".join(f"{commit} ({count} cases)" for commit, count in counts.items())
        machine = machine | {"commit": commits}
    cases = [
        entry["extra_info"] for file in files for entry in file["benchmarks"] if entry["extra_info"]
    ]
    # Parts take every so many-th case: put together, those of a kind stand in the order of shapes.
    if len(files) > 1:
        cases.sort(key=lambda case: case.get("shape", []))
    return {"date": files[0]["datetime"][:16].replace("T", " "), "machine": machine, "cases": cases}


# --- Tables ---------------------------------------------------------------------------------------


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    align = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, align, *rows)] + [""]


def ratio(case: Case, name: str) -> str:
    if name not in case["ratios"]:
        return ""
    text = f"{case['ratios'][name]:.2f}"
    return f"**{text}**" if name in case["loses_to"] else text


def ratio_table(cases: list[Case], first: Callable[[Case], str] = shape) -> list[str]:
    """Our time, and each other's as a multiple of it; bold where it is smaller."""
    names = list(dict.fromkeys(name for case in cases for name in case["ratios"]))
    rated = any("share_of_peak" in case for case in cases)
    moved = any("share_of_reading" in case for case in cases)
    paths = any(case["path"] for case in cases)
    head = ["N x K x D", "ms", "±%", *(["GFLOP/s", "of peak"] if rated else [])]
    head += [*(["GB/s", "of reading"] if moved else []), *names]
    rows = []
    for case in cases:
        row = [first(case), f"{1e3 * case['seconds']['ours']:.3g}"]
        row.append(f"{100 * case['spread']['ours']:.0f}")
        if rated:
            row += [f"{case['gflop_per_s']:.0f}", f"{case['share_of_peak']:.0%}"]
        if moved:
            row += [f"{case['gb_per_s']:.1f}", f"{case['share_of_reading']:.0%}"]
        row += [ratio(case, name) for name in names]
        if paths:
            row.append(", ".join(f"{name} {count}" for name, count in case["path"].items()))
        rows.append(row)
    return table(head + (["path"] if paths else []), rows)


def left_out(cases: list[Case]) -> list[str]:
    """Why some of the peers were not timed at some shapes."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for name, why in case.get("left_out", {}).items():
            reasons.setdefault((shape(case), why), []).append(name)
    return [f"- {at}: no {', '.join(names)} ({why})" for (at, why), names in reasons.items()]


def memory_table(cases: list[Case], who: str) -> list[str]:
    rows = [
        [
            c[who],
            shape(c),
            f"{c['extra'] / 2**20:.1f}",
            f"{c['codebook'] / 2**20:.1f}",
            f"{c['extra'] / c['codebook']:.1f}",
        ]
        for c in cases
    ]
    return table(["", "N x K x D", "MiB beyond the results", "codebook MiB", "codebooks"], rows)


def wrong_table(cases: list[Case]) -> list[str]:
    """How often each peer is wrong on the hard data."""
    cases = [case for case in cases if "differing_per_million" in case]
    if not cases:
        return []
    names = list(dict.fromkeys(n for c in cases for n in c["differing_per_million"]))
    data = list(
        dict.fromkeys(d for c in cases for n in names for d in c["differing_per_million"][n])
    )
    rows = [
        [f"{shape(c)}, {name}", *(f"{c['differing_per_million'][name][kind]:.0f}" for kind in data)]
        for c in cases
        for name in names
    ]
    return [
        "Rows in a million for which a peer finds another code than fp64:",
        "",
        *table(["", *data], rows),
    ]


def losing(report: dict[str, Any]) -> list[str]:
    """Every shape at which a peer was faster, in any benchmark, with its time over ours."""
    return [
        f"{case['case']}, {where(case)}: "
        + ", ".join(f"{peer} {case['ratios'][peer]:.2f}" for peer in case["loses_to"])
        for case in report["cases"]
        if case.get("loses_to")
    ]


def summary(report: dict[str, Any]) -> list[str]:
    lines = ["## Goals", ""]
    rows = []
    for text, total, missed in goals(report):
        state = "not measured" if total == 0 else f"{total - len(missed)} of {total}"
        rows.append([text, state, "below" if text in LISTED else "; ".join(missed)])
    lines += table(["goal", "met", "missed at"], rows)
    lines += ["## Losing shapes", ""]
    if entries := losing(report):
        lines += ["A peer's time over ours where it is faster:", ""]
        lines += [f"- {entry}" for entry in entries]
    else:
        lines += ["None: no peer was faster anywhere."]
    return [*lines, ""]


def markdown(report: dict[str, Any], plot: str) -> str:
    machine = report["machine"]
    peak, read = machine["fma_gflops"], machine["read_gb_per_s"]
    simd = (machine["simd"] or {}).get("nearest_code", "unknown")
    lines = [
        f"# Measured on {machine['cpu']}",
        "",
        f"{machine['cores']} cores, {machine['arch']}, kernels at SIMD level {simd}; torch "
        f"{machine['torch']}, {machine['compiler']}; {report['date']} UTC, commit "
        f"{machine['commit']}.",
        "FMA peak "
        + ", ".join(f"{gflops:.0f} GFLOP/s on {n}" for n, gflops in peak.items())
        + f" threads with {machine['peak_vector_bits']}-bit vectors; memory read at "
        + ", ".join(f"{rate:.0f} GB/s on {n}" for n, rate in read.items())
        + " threads.",
        "",
        "Times are medians, ± half the range between the quartiles. A peer's column is its time as "
        "a multiple of ours in the same rounds: above 1, we are faster; **bold** below. "
        "`new codebook` is ours with a codebook that changed since the last call; `of reading` is "
        "the bytes of all inputs and outputs over the time, beside what memory gives to a reader.",
        "",
        f"![times and shares of the peak]({plot})",
        "",
        *summary(report),
    ]
    gaussian = of(report, "nearest_code")
    for threads in sorted({case["threads"] for case in gaussian}):
        cases = [case for case in gaussian if case["threads"] == threads]
        lines += [f"## `nearest_code`, {threads} thread{'s' * (threads > 1)}", ""]
        lines += ratio_table(cases)
    if reasons := left_out([case for case in gaussian if case["threads"] == 1]):
        lines += ["Left out:", "", *reasons, ""]
    if hard := of(report, "nearest_code, hard data"):
        lines += ["## Hard data, as a multiple of Gaussian data's time", ""]
        lines += [*ratio_table(hard, where), *wrong_table(hard)]
    if all_threads := of(report, "nearest_code, all threads"):
        lines += ["## All threads beside one", "", *ratio_table(all_threads, where)]
    if memory := of(report, "memory"):
        lines += ["## Peak memory of a search", "", *memory_table(memory, "search")]
    if steps := of(report, "VectorQuantizer, training step"):
        lines += ["## Whole quantiser, training step", "", *ratio_table(steps, where)]
    if memory := of(report, "memory of a training step"):
        lines += memory_table(memory, "who")
    told = {"nearest_code", "nearest_code, hard data", "nearest_code, all threads"}
    others = [
        case
        for case in report["cases"]
        if "ratios" in case and case["case"] not in told | {"VectorQuantizer, training step"}
    ]
    if others:
        lines += ["## Other benchmarks", ""]
        for name in dict.fromkeys(case["case"] for case in others):
            lines += [f"### {name}", "", *ratio_table(of(report, name), where)]
    return "\n".join(lines)


# --- Plot -----------------------------------------------------------------------------------------


def plot(report: dict[str, Any], path: Path) -> None:
    """Peers' times over ours, and our share of the FMA peak, by D."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [c for c in of(report, "nearest_code") if c["threads"] == 1 and c["shape"][0] == 4096]
    by_codes: dict[int, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case["shape"][2]):
        by_codes.setdefault(case["shape"][1], []).append(case)
    if not by_codes:
        return
    shown = 8192 if 8192 in by_codes else max(by_codes, key=lambda k: len(by_codes[k]))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    names = dict.fromkeys(name for case in by_codes[shown] for name in case["peers"])
    for name, marker in zip(names, "osv^D<>Pp*hX", strict=False):
        points = [
            (case["shape"][2], case["ratios"][name])
            for case in by_codes[shown]
            if name in case["ratios"]
        ]
        left.plot(*zip(*points, strict=True), marker=marker, ms=5, lw=1.3, label=name)
    left.axhline(1, color="black", lw=1)
    left.set_yscale("log")
    left.set_ylabel("time as a multiple of nearest_code's")
    left.set_title(f"N = 4096, K = {shown}, one thread")
    left.legend(fontsize=8, ncols=2)
    for codes, entries in sorted(by_codes.items()):
        points = [(case["shape"][2], 100 * case["share_of_peak"]) for case in entries]
        right.plot(
            *zip(*points, strict=True), marker="o", markersize=5, lw=1.3, label=f"K = {codes}"
        )
    right.axhline(100, color="black", lw=1)
    right.set_ylim(bottom=0)
    right.set_ylabel("2 N K D operations, % of the fp32 FMA peak")
    right.set_title("nearest_code, N = 4096, one thread")
    right.legend(fontsize=8)
    dims = sorted({case["shape"][2] for case in cases})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(dims, labels=[str(d) for d in dims])
        axes.set_xlabel("D")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, nargs="+", help="what pytest-benchmark wrote")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", help="its name, where the machine hides which one it is")
    arguments = parser.parse_args()
    report = load(arguments.measured)
    machine = report["machine"]
    machine["cpu"] = arguments.cpu or machine["cpu"]
    level = (machine["simd"] or {}).get("nearest_code", machine["arch"])
    cpu = re.sub(r"\(\w+\)| Processor", "", machine["cpu"])  # as in Intel(R) Xeon(R) Processor
    name = re.sub("[^A-Za-z0-9]+", "_", f"cpu_{cpu}_{level}").lower()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = arguments.out / name
    base.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, base.with_suffix(".png"))
    base.with_suffix(".md").write_text(markdown(report, f"{name}.png"))
    print("\n".join(summary(report)))
    print(f"Wrote {base}.json, .md and .png")


if __name__ == "__main__":
    main()
