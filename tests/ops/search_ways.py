"""The ways that a search can go on the CPU, and the SIMD levels it can go at."""

from __future__ import annotations

import itertools

import pytest

from vqgan_fast import _native, ops

WAYS = ("auto", "direct", "fp32", "int16", "int8", "boxes")
LEVELS = _native.build_info()["simd_compiled"]
# Those that have an int8 screen of their own; every other one takes one of these.
INT8_LEVELS = [
    level for level in LEVELS if level in ("baseline", "avxvnni", "avx512vnni", "neondot")
]
WAYS_AT_LEVELS = [
    (way, level)
    for way, level in itertools.product(WAYS, LEVELS)
    if way != "int8" or level in INT8_LEVELS
]


def cpu_levels() -> list[str]:
    """The compiled levels that this CPU runs."""
    return [level for level in LEVELS if level in _native.cpu_features()["levels"]]


def force_way(name: str, level: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has searches go this way at this level, or skips the test; returns the name."""
    if level not in cpu_levels():
        pytest.skip(f"this CPU does not run {level}")
    monkeypatch.setenv("VQGAN_FAST_SCREEN", name)
    monkeypatch.setenv("VQGAN_FAST_ISA", level)
    ops.nearest_code_counters(reset=True)
    return name
