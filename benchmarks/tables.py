"""The tables of a benchmark: printed as they come, then kept as JSON and Markdown with the machine.

The files name the CPU, versions, commit, date and load, and no path: they are made to be committed.
"""

from __future__ import annotations

import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from machine import describe

Row = dict[str, Any]  # column -> text, number or None; all rows of a table have the same columns


class Tables:
    """Prints tables and remembers them.

    Args:
        title: of the whole, in one line.
        settings: what the figures depend on, by name.
    """

    def __init__(self, title: str, **settings: Any) -> None:
        self.title = title
        self.settings = settings
        self.date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
        self.load = round(os.getloadavg()[0], 1)  # others' programs, before ours starts
        self.tables: list[dict[str, Any]] = []
        print(f"# {title}\n", flush=True)

    def add(self, title: str, rows: list[Row], note: str = "") -> None:
        """One table, and a sentence below it."""
        self.tables.append({"title": title, "rows": rows, "note": note})
        print("\n".join(markdown_table(self.tables[-1])), flush=True)

    def write(self, folder: Path | None, name: str) -> list[Path]:
        """`<name>_<CPU>_<SIMD level>.json` and `.md` in a folder; None writes nothing."""
        if folder is None:
            return []
        machine = describe()
        level = (machine["simd"] or {}).get("selected", machine["arch"])
        name = re.sub("[^A-Za-z0-9]+", "_", f"{name}_{machine['cpu']}_{level}").lower()
        folder.mkdir(parents=True, exist_ok=True)
        kept = {
            "title": self.title, "date": self.date, "load": self.load, "machine": machine,
            "settings": self.settings, "tables": self.tables,
        }  # fmt: skip
        files = [folder / f"{name}.{kind}" for kind in ("json", "md")]
        files[0].write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        files[1].write_text("\n".join(self._markdown(machine, level)).rstrip() + "\n", "utf-8")
        return files

    def _markdown(self, machine: dict[str, Any], level: str) -> list[str]:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        read = machine["read_gb_per_s"].items()
        return [
            f"# {self.title}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['arch']}, SIMD level {level}; "
            f"memory read at {', '.join(f'{rate:.1f} GB/s on {n}' for n, rate in read)} threads; "
            f"torch {machine['torch']}, {machine['compiler']}; {self.date} UTC, commit "
            f"{machine['commit']}. Load before it began: {self.load}.",
            *(["", f"Settings: {settings}."] if settings else []),
            "",
            *(line for table in self.tables for line in markdown_table(table)),
        ]


def markdown_table(table: dict[str, Any]) -> list[str]:
    """A heading, the rows with numbers to three digits, and the note."""
    columns = list(table["rows"][0])
    cells = [columns, ["---"] * len(columns)]
    cells += [[_cell(row[column]) for column in columns] for row in table["rows"]]
    lines = [f"## {table['title']}", "", *("| " + " | ".join(row) + " |" for row in cells), ""]
    return [*lines, table["note"], ""] if table["note"] else lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
