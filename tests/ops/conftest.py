"""Every way that `nearest_code` can go on the CPU, at every SIMD level."""

from __future__ import annotations

import pytest
from search_ways import LEVELS, WAYS_AT_LEVELS, cpu_levels, force_way


@pytest.fixture(params=WAYS_AT_LEVELS, ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return force_way(*request.param, monkeypatch)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each compiled SIMD level, in force."""
    if request.param not in cpu_levels():
        pytest.skip(f"this CPU does not run {request.param}")
    monkeypatch.setenv("VQGAN_FAST_ISA", request.param)
    return request.param
