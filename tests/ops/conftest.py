"""Every way that `nearest_code` can go on the CPU, at every SIMD level."""

from __future__ import annotations

import itertools

import pytest

from vqgan_fast import _native, ops

WAYS = ("auto", "direct", "fp32", "int16", "boxes")
LEVELS = _native.build_info()["simd_compiled"]


def cpu_levels() -> list[str]:
    """The compiled levels that this CPU runs: those up to the one it detects."""
    return LEVELS[: LEVELS.index(_native.cpu_features()["detected"]) + 1]


@pytest.fixture(params=[*itertools.product(WAYS, LEVELS)], ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name, level = request.param
    if level not in cpu_levels():
        pytest.skip(f"this CPU does not run {level}")
    monkeypatch.setenv("VQGAN_FAST_SCREEN", name)
    monkeypatch.setenv("VQGAN_FAST_ISA", level)
    ops.nearest_code_counters(reset=True)
    return name


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each compiled SIMD level, in force."""
    if request.param not in cpu_levels():
        pytest.skip(f"this CPU does not run {request.param}")
    monkeypatch.setenv("VQGAN_FAST_ISA", request.param)
    return request.param
