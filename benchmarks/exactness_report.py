"""What a run of check_exact.py saw: tables, and the files that keep them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import torch
from report import table

from vqgan_fast import info


@dataclass
class Outcome:
    """Of one block."""

    data: str
    size: str
    dtype: str
    rows: int
    again: int = 0  # rows of the second search
    scalar: int = 0  # rows that the judge left to the scalar definition
    wrong: int = 0  # indices, of either search
    searched: Counter = field(default_factory=Counter)  # rows by (way, SIMD level)
    counters: Counter = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)


def collect(outcomes: list[Outcome], seconds: float, seed: int, processes: int) -> dict[str, Any]:
    """All that is reported, ready for JSON."""
    by_data: dict[str, Counter] = {}
    by_size: dict[str, Counter] = {}
    searched: dict[str, Counter] = {}
    known = info.collect()
    dtypes, counters, total = Counter(), Counter(), Counter()
    for outcome in outcomes:
        numbers = Counter(
            rows=outcome.rows,
            again=outcome.again,
            blocks=1,
            scalar=outcome.scalar,
            wrong=outcome.wrong,
        )
        by_data.setdefault(outcome.data, Counter()).update(numbers)
        total.update(numbers)
        by_size.setdefault(outcome.size, Counter()).update({outcome.data: outcome.rows})
        for (way, level), rows in outcome.searched.items():
            searched.setdefault(way, Counter()).update({level: rows})
        dtypes.update({outcome.dtype: outcome.rows})
        counters.update(outcome.counters)
    return {
        "cpu": known["cpu"]["model"],
        "cores": machine.all_threads(),
        "torch": torch.__version__,
        "seconds": seconds,
        "seed": seed,
        "processes": processes,
        "total": total,
        "data": by_data,
        "sizes": by_size,
        "searched": searched,
        "dtypes": dtypes,
        "counters": counters,
        "mismatches": [text for outcome in outcomes for text in outcome.mismatches],
    }


def by_products(size: str) -> tuple[int, str]:
    """Sorts sizes by the products of a row."""
    codes, dim = map(int, size.split("x"))
    return codes * dim, size


def counts(numbers: Counter, names: list[str]) -> list[str]:
    return [f"{numbers[name]:,}" for name in names]


def tables(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown."""
    total = result["total"]
    columns = ["rows", "again", "blocks", "scalar", "wrong"]
    kinds = sorted(result["data"])
    levels = sorted({level for numbers in result["searched"].values() for level in numbers})
    return [
        f"{total['rows']:,} rows in {total['blocks']:,} blocks, {result['seconds']:.0f} s in "
        f"{result['processes']} processes on {result['cpu']} ({result['cores']} cores), torch "
        f"{result['torch']}, seed {result['seed']}: {total['wrong']:,} indices differ from fp64.",
        "",
        "Rows searched a second time, in another setting; rows that fp64 products cannot tell, "
        "left to the scalar definition; wrong indices of either search:",
        "",
        *table(
            ["data", "rows", "second", "blocks", "scalar", "wrong"],
            [[kind, *counts(result["data"][kind], columns)] for kind in kinds]
            + [["all", *counts(total, columns)]],
        ),
        "Rows by codes x dimensions and data:",
        "",
        *table(
            ["K x D", "all", *kinds],
            [
                [size, f"{numbers.total():,}", *counts(numbers, kinds)]
                for size, numbers in sorted(
                    result["sizes"].items(), key=lambda item: by_products(item[0])
                )
            ],
        ),
        "Rows of both searches by the way that they went, and the SIMD level:",
        "",
        *table(
            ["way", *levels],
            [[way, *counts(result["searched"][way], levels)] for way in sorted(result["searched"])],
        ),
        "Dtypes: " + ", ".join(f"{name} {n:,}" for name, n in result["dtypes"].items()) + ".",
        "Tiers: " + ", ".join(f"{name} {n:,}" for name, n in result["counters"].items()) + ".",
    ]


def write(result: dict[str, Any], path: Path) -> None:
    """FILE.md and FILE.json; exactness_<CPU>.* where path is a folder."""
    if path.is_dir():
        name = re.sub(r"[^a-z0-9]+", "_", result["cpu"].lower()).strip("_")
        path = path / f"exactness_{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = machine.describe()
    lines = ["# nearest_code against fp64", "", *tables(result), *result["mismatches"]]
    lines += ["", f"Commit {about['commit']}, compiler {about['compiler']}."]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    path.with_suffix(".json").write_text(json.dumps(result | {"machine": about}, indent=1) + "\n")
