"""The tables that benchmarks keep: what they print is what they write, and the machine is named."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MACHINE = {
    "cpu": "Some CPU (TM) 9", "cores": 2, "arch": "x86_64", "simd": {"selected": "avx2"},
    "compiler": "GNU 1", "torch": "2.99", "commit": "abc", "read_gb_per_s": {1: 10.0, 2: 19.96},
}  # fmt: skip


def test_tables_are_printed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("tables")
    monkeypatch.setattr(tables, "describe", lambda: MACHINE)
    kept = tables.Tables("A title", rounds=3)
    rows = [
        {"step": "ours", "ms": 1.23456, "goal": None},
        {"step": "loop", "ms": 2048.4, "goal": 4},
    ]
    kept.add("One table", rows, "A note.")
    assert kept.write(None, "sampling") == []
    files = kept.write(tmp_path / "results", "sampling")

    assert [file.name for file in files] == [
        "sampling_some_cpu_tm_9_avx2.json",
        "sampling_some_cpu_tm_9_avx2.md",
    ]
    written = json.loads(files[0].read_text())
    assert written["tables"] == [{"title": "One table", "rows": rows, "note": "A note."}]
    assert (written["settings"], written["machine"]["commit"]) == ({"rounds": 3}, "abc")
    page, printed = files[1].read_text(), capsys.readouterr().out
    for line in ("| ours | 1.23 |  |", "| loop | 2048 | 4 |", "A note."):
        assert line in page
        assert line in printed
    assert "commit abc" in page
    assert "10.0 GB/s on 1, 20.0 GB/s on 2 threads" in page
    assert written["date"] in page
    assert page.endswith("\n")


def measured(
    folder: Path, commit: str, shapes: list[list[int]], cpu: str = "A CPU", peak: float = 100.0
) -> Path:
    """What pytest-benchmark writes, as far as a report reads it."""
    machine = {"cpu": cpu, "simd": {"selected": "avx2"}, "torch": "2.99", "commit": commit}
    machine["fma_gflops"] = {"1": peak}
    cases = [{"extra_info": {"shape": shape}} for shape in shapes]
    file = folder / f"{commit}_{cpu}.json"
    about = {"datetime": "2026-11-29T03:30:00", "machine_info": {"vqgan_fast": machine}}
    file.write_text(json.dumps({**about, "benchmarks": cases}))
    return file


def test_a_report_of_several_files_names_their_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    load = importlib.import_module("report").load
    old, new = measured(tmp_path, "abc", [[4, 2, 1], [1, 2, 1]]), measured(tmp_path, "def", [[2]])
    found = load([old, new])
    assert found["machine"]["commit"] == "abc (2 cases), def (1 cases)"
    assert [case["shape"] for case in found["cases"]] == [[1, 2, 1], [2], [4, 2, 1]]
    assert load([old])["machine"]["commit"] == "abc"
    with pytest.raises(ValueError, match=r"was not measured like .*abc_A CPU\.json"):
        load([old, measured(tmp_path, "abc", [[1]], cpu="Another")])
    with pytest.raises(ValueError, match=r"has another peak than .*: 200\.0 against 100\.0"):
        load([old, measured(tmp_path, "ghi", [[1]], peak=200.0)])
