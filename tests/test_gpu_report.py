"""What benchmarks/gpu_check.sh writes, from made-up measurements: no GPU is needed to see that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

PEAKS = {"copy_bytes_per_s": 4.3e12, "bf16_flops": 7.9e14}
SHAPE = {"N": 65536, "K": 16384, "D": 256, "dtype": "float32"}
RESULTS = [
    SHAPE
    | {"name": "exact", "ms": 1.0, "wrong": 0.0, "graph": True, "goal_ms": 1.15, "flops": 5.5e14}
    | {"kernels_ms": {"finish_kernel": 0.05, "wgmma_kernel<8>": 0.71}},
    SHAPE | {"name": "torch addmm + argmin", "ms": 12.5, "wrong": 0.001, "graph": False},
    SHAPE | {"name": "torch cdist + argmin", "error": "OutOfMemoryError: no memory"},
]


def test_the_table_tells_ratios_goals_and_what_failed():
    from gpu_report import table

    lines = table(RESULTS, PEAKS).splitlines()[2:]
    assert "| 1.0000 | 1.00 | 0.000% | goal 1.15: met, 70% of the bf16 rate |" in lines[0]
    assert "| 12.5000 | 12.50 | 0.100% | no graph |" in lines[1]
    assert "no memory" in lines[2]
    slow = [RESULTS[0] | {"ms": 1.2}]
    assert "missed" in table(slow, PEAKS)
    # Without ours there is nothing to compare with.
    assert "| 12.5000 |  | 0.100% |" in table(RESULTS[1:], PEAKS)


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
    assert "256 float32: wgmma_kernel<8> 0.7100, finish_kernel 0.0500" in text
    nothing_measured = markdown(report | {"exactness": None, "speed": None})
    assert "| build | passed (3 s) |" in nothing_measured
    ways = {
        "auto float32": {"rows": 100, "wrong": 0},
        "wgmma float16": {"rows": 12, "wrong": 1, "error": "AcceleratorError: illegal access"},
    }
    random = {"random": {"rows": 100, "wrong": 1, "ways": ways}}
    assert "- by wgmma float16: 1 of 12, then Accelerator" in markdown(
        report | {"exactness": random}
    )
    cut_off = markdown(report | {"exactness": {"random": {"rows": 10**8, "wrong": 0}}})
    assert "0 differ." in cut_off and "the CPU" not in cut_off


def test_later_measurements_take_the_place_of_earlier_ones_and_errors_do_not():
    from gpu_report import failed, merge, table

    alone = RESULTS[0] | {"alone": True}
    other = alone | {"N": 1}
    results = [alone, other]
    merge(results, [SHAPE | {"name": "exact", "error": "an illegal access"}, RESULTS[1]])
    assert [row["ms"] for row in results] == [1.0, 12.5, 1.0], "a shape's contenders together"
    assert "not in turn with the others, later an illegal access" in table(results, PEAKS)
    assert not any(map(failed, results)), "behind a peer's illegal access everyone has an error"
    merge(results, [RESULTS[0] | {"ms": 2.0, "alone": False}])
    assert results[0]["ms"] == 2.0 and "later_error" not in results[0]
    assert "in turn" not in table(results[:1], PEAKS)
    assert failed(SHAPE | {"name": "exact by mma", "wrong": 0.1}) and failed(
        SHAPE | {"name": "fast", "error": "no memory"}
    )
    assert not failed(SHAPE | {"name": "fast", "wrong": 0.1})


@pytest.fixture
def speed(monkeypatch):
    """gpu_speed.py on CPU tensors, each call timed as a millisecond."""
    import gpu_speed

    def milliseconds(run, times=1):
        run()
        return 1.0

    arange = torch.arange
    monkeypatch.setattr(torch, "randperm", lambda n, device: arange(n))
    monkeypatch.setattr(gpu_speed, "inputs", lambda shape, dtype: torch.randn(2, 9, 4).unbind())
    monkeypatch.setattr(gpu_speed, "captured", lambda run: (run, 1))
    monkeypatch.setattr(gpu_speed, "milliseconds", milliseconds)
    return gpu_speed


def test_a_contender_that_fails_in_a_late_round_costs_its_own_time_alone(speed):
    def contenders(z, codebook):
        calls = iter(range(6))

        def late():
            if next(calls, None) is None:
                raise RuntimeError("no memory\nin a peer")
            return speed.ours(z, codebook)["exact"]()

        return {"late": late} | speed.ours(z, codebook)

    late, exact, fast = speed.measure((9, 9, 4), torch.float32, contenders)
    assert late["error"] == "RuntimeError: no memory" and "ms" not in late
    assert exact["ms"] == fast["ms"] == 1.0 and exact["wrong"] == 0


def test_each_way_is_timed_that_can_be_gone(monkeypatch):
    import gpu_contenders

    monkeypatch.setattr(gpu_contenders, "can_go", lambda way, *_: way != "wgmma")
    found = gpu_contenders.by_ways(["mma", "wgmma"], *torch.randn(2, 9, 4).unbind())
    assert list(found) == ["exact by mma"] and len(found["exact by mma"]()) == 9


def test_a_way_that_fails_stops_no_other(monkeypatch):
    import gpu_exactness

    original = gpu_exactness.ops.nearest_code

    def search(*arguments):
        way = os.environ["VQGAN_FAST_CUDA_SEARCH"]
        if way == "mma":
            raise RuntimeError("an illegal access")
        found = original(*arguments)
        return found + 1 if way == "wgmma" and arguments[0].dtype == torch.float16 else found

    monkeypatch.setattr(gpu_exactness.ops, "nearest_code", search)
    monkeypatch.setattr(gpu_exactness, "can_go", lambda *_: True)
    comparison = gpu_exactness.Comparison(["direct", "mma", "wgmma"])
    for _ in range(2):
        comparison.block(torch.randn(40, 4), torch.randn(9, 4))
    found = comparison.totals()
    assert found["rows"] == 80 and found["wrong"] == found["ways"]["wgmma float16"]["wrong"] == 10
    assert found["ways"]["mma float32"] == {
        "rows": 0,
        "wrong": 0,
        "error": "RuntimeError: an illegal access",
    }
    assert found["ways"]["direct bfloat16"] == {"rows": 10, "wrong": 0}


def test_a_measurement_that_is_cut_off_while_it_is_written_is_as_it_was(tmp_path):
    from gpu_report import read, write

    path = tmp_path / "speed.json"
    write(path, {"results": []})
    with pytest.raises(TypeError):
        write(path, {"results": [object()]})
    assert read(path) == {"results": []}
