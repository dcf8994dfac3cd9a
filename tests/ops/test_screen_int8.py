"""What the int8 screen keeps: more than the others, and not in lanes."""

from __future__ import annotations

import pytest
import torch
from search_cases import assert_is_oracle
from search_ways import LEVELS, force_way
from torch import Tensor

from vqgan_fast import ops


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    force_way("int8", request.param, monkeypatch)
    return request.param


def check(z: Tensor, codebook: Tensor) -> dict[str, int]:
    ops.nearest_code_counters(reset=True)
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
    return ops.nearest_code_counters()


@pytest.mark.usefixtures("level")
def test_the_longest_vectors_it_takes() -> None:
    """Sums of products and norms are as large as they can be, either way, and 2^30 is no code."""
    d = 16384
    signs = torch.randint(2, (6, d)) * 2.0 - 1.0
    codebook = torch.cat([torch.ones(1, d), -torch.ones(1, d), signs, -signs])
    z = torch.cat([codebook, codebook * (0.5 + torch.rand(14, 1)), 1e3 * codebook[:4]])
    check(z, codebook)
    codebook[3, -1] = torch.nan
    check(z, codebook)


@pytest.mark.parametrize("count", [1000, 1100])
@pytest.mark.usefixtures("level")
def test_as_many_ties_as_are_listed(count: int) -> None:
    """Lists end at 1024 codes, to which one segment may add as many: more leave the row open."""
    k, d = 40000, 12
    codebook = torch.randn(k, d) + 8
    place = torch.randn(d)
    tied = torch.cat([2048 + 3 * torch.arange(count // 2), 4096 + torch.arange(count)])
    codebook[tied] = place + 1e-5 * torch.randn(len(tied), d)
    z = place + 1e-5 * torch.randn(60, d)
    z[::2] += 8
    check(z, codebook)


@pytest.mark.usefixtures("level")
def test_limits_that_fall_code_by_code() -> None:
    """Every code is nearer than those before it, so each segment lowers the limit, and its last
    code is the nearest; then the other way round, with a tie."""
    k, d = 5000, 24
    direction = torch.nn.functional.normalize(torch.randn(k, d), dim=1)
    codebook = direction * torch.linspace(30, 1, k)[:, None]
    z = 1e-3 * torch.randn(50, d)
    check(z, codebook)
    check(z, codebook.flip(0))
    check(z, torch.cat([codebook, codebook.flip(0)]))


def test_another_screen_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One code that is far longer makes the scale too coarse for int8, which leaves rows open;
    int16 tells the others apart, and none is searched directly."""
    force_way("auto", "avx512vnni", monkeypatch)
    n, codebook = 1200, torch.randn(4096, 64)
    codebook[7] *= 10
    counters = check(torch.randn(n, 64), codebook)
    assert counters["calls_int8"] > 0
    assert counters["rows_direct"] + counters["rows_scan"] < 0.1 * n * counters["calls_int8"]
