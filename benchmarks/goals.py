"""What the measurements are to show, and which of them do not; cases are what `compare` stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Case = dict[str, Any]

# Times of tuned faiss over ours by D: at K >= 8192, and at K = 262144; N >= 4096.
FAISS_GOALS = {4: (3.0, 10.0), 8: (1.6, 5.0), 32: (2.6, 2.6), 64: (2.1, 2.1), 256: (1.35, 1.35)}
# 2 N K D operations over the FMA peak, N >= 4096 and K >= 8192.
SHARE_GOALS = {4: 1.1, 16: 0.78, 32: 1.1, 64: 1.1, 128: 1.1, 256: 1.1}
THREADS_GOAL, HARD_GOAL = 1.85, 2.5
MM_GOAL = "faster than the product (mm) alone from N = 256"
PEERS_GOAL = "faster than every peer that finds the code"
LISTED = {MM_GOAL, PEERS_GOAL}  # what misses these is in the list of losing shapes


def of(report: dict[str, Any], case: str) -> list[Case]:
    return [entry for entry in report["cases"] if entry["case"] == case]


def shape(case: Case) -> str:
    return " x ".join(map(str, case["shape"]))


def where(case: Case) -> str:
    return f"{shape(case)}, {case['threads']} thread{'s' * (case['threads'] > 1)}"


def goals(report: dict[str, Any]) -> list[tuple[str, int, list[str]]]:
    """Each goal: what it says, how many measurements it concerns, and those that miss it."""
    gaussian = of(report, "nearest_code")
    big = [c for c in gaussian if c["shape"][0] >= 4096 and c["shape"][1] >= 8192]
    found = []

    def goal(text: str, values: Iterable[tuple[str, float, Callable[[float], bool]]]) -> None:
        values = list(values)
        missed = [f"{label}: {value:.2f}" for label, value, met in values if not met(value)]
        found.append((text, len(values), missed))

    for d, (usual, largest) in FAISS_GOALS.items():
        both = f"{usual:g}x" + (f", {largest:g}x at K = 262144" if largest != usual else "")
        goal(
            f"D = {d}: faster than tuned faiss by {both}",
            (
                (
                    where(c),
                    c["ratios"]["faiss"],
                    (largest if c["shape"][1] == 262144 else usual).__le__,
                )
                for c in big
                if c["shape"][2] == d and "faiss" in c["ratios"]
            ),
        )
    for d, least in SHARE_GOALS.items():
        goal(
            f"D = {d}: at least {least:.0%} of the FMA peak",
            ((where(c), c["share_of_peak"], least.__le__) for c in big if c["shape"][2] == d),
        )
    goal(
        MM_GOAL,
        (
            (where(c), c["ratios"]["mm alone"], (1.0).__le__)
            for c in gaussian
            if c["shape"][0] >= 256
        ),
    )
    goal(
        PEERS_GOAL,
        (
            (f"{where(c)}, {peer}", c["ratios"][peer], (1.0).__le__)
            for c in gaussian
            for peer in c["peers"]
            if peer != "mm alone"
        ),
    )
    goal(
        f"all threads at least {THREADS_GOAL} times one, for two",
        (
            (where(c), c["ratios"]["1 thread"], (THREADS_GOAL * c["threads"] / 2).__le__)
            for c in of(report, "nearest_code, all threads")
        ),
    )
    goal(
        f"hard data at most {HARD_GOAL} times Gaussian",
        (
            (f"{where(c)}, {data}", ratio, HARD_GOAL.__ge__)
            for c in of(report, "nearest_code, hard data")
            for data, ratio in c["ratios"].items()
        ),
    )
    return found
