"""Every way that `nearest_code` can go on the CPU, at every SIMD level."""

from __future__ import annotations

import itertools

import pytest
from search_ways import LEVELS, WAYS, force_way


@pytest.fixture(params=[*itertools.product(WAYS, LEVELS)], ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return force_way(*request.param, monkeypatch)
