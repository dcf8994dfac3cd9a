"""What the int8 screen keeps: more than the others, and not in lanes."""

from __future__ import annotations

import pytest
import torch
from search_cases import assert_is_oracle
from search_ways import INT8_LEVELS, force_way
from torch import Tensor

from vqgan_fast import ops


@pytest.fixture(params=INT8_LEVELS)
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


@pytest.mark.parametrize("count", [1024, 1025])
@pytest.mark.usefixtures("level")
def test_as_many_ties_as_are_measured(count: int) -> None:
    """A row may have 1024 candidates, in however many segments; with one more it is open."""
    codebook, place = torch.randn(40000, 12) + 8, torch.randn(12)
    tied = torch.cat([2048 + 3 * torch.arange(count // 3), 4096 + torch.arange(count)])[:count]
    codebook[tied] = place + 1e-5 * torch.randn(count, 12)
    counters = check(place + 1e-5 * torch.randn(60, 12), codebook)
    assert counters["rows_candidates"] == (60 if count == 1024 else 0)


@pytest.mark.usefixtures("level")
def test_limits_that_fall_from_code_to_code() -> None:
    """Every code is nearer than those before it, so that each segment marks all of its codes, which
    a later one drops; but for the panels, of 64 codes or 8, from which the first limits come."""
    k, d = 16384, 64
    norms = torch.linspace(900, 1, k).sqrt()
    for codes, most in ((64, 16), (8, 32)):
        panels = k // codes
        sample = min(panels // 32, most)
        for i in range(sample):
            first = i * panels // sample * codes
            norms[first : first + codes] = 30
    codebook = torch.nn.functional.normalize(torch.randn(k, d), dim=1) * norms[:, None]
    counters = check(1e-3 * torch.randn(50, d), codebook)
    assert counters["rows_candidates"] + counters["rows_screen"] == 50
    check(1e-3 * torch.randn(50, d), codebook.flip(0))
    check(1e-3 * torch.randn(50, d), torch.cat([codebook, codebook.flip(0)]))


def test_another_screen_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One code that is far longer makes the scale too coarse for int8, which leaves rows open;
    int16 tells the others apart, and none is searched directly."""
    force_way("auto", "avx512vnni", monkeypatch)
    n, codebook = 1200, torch.randn(4096, 64)
    codebook[7] *= 10
    counters = check(torch.randn(n, 64), codebook)
    assert counters["calls_int8"] > 0
    assert counters["rows_direct"] + counters["rows_scan"] < 0.1 * n * counters["calls_int8"]


def test_another_screen_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows in ten lie in a cluster of which int8 tells no codes apart: fewer than a screen is
    given up for as such. int16 leaves one code of nearly every row; int8 would of few."""
    force_way("auto", "avx512vnni", monkeypatch)
    n, codebook = 3000, torch.randn(4096, 64)
    centre = torch.randn(64)
    codebook[::3] = centre + 0.2 * torch.randn(1366, 64)
    z = torch.randn(n, 64)
    inside = torch.arange(n) % 10 < 4
    z[inside] = centre + 0.2 * torch.randn(int(inside.sum()), 64)
    counters = check(z, codebook)
    assert counters["calls_int8"] > 0
    assert counters["rows_screen"] > 0.6 * n * counters["calls_int8"]
