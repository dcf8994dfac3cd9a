"""Latents far from all codes: the screen by boxes scores them by products.

The bound is that of docs/numerics.md, "Far rows"; its names are used here.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import assert_is_oracle
from search_ways import LEVELS, force_way
from torch import Tensor

from vqgan_fast import ops

ROWS, TIED = 24, 12


@pytest.fixture(params=[*itertools.product(("auto", "boxes"), LEVELS)], ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of all ways the one that treats far rows apart, and what the op chooses."""
    return force_way(*request.param, monkeypatch)


def check(z: Tensor, codebook: Tensor) -> None:
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def tied_far(
    d: int, k: int, distance: float, offset: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rows `distance` away, and for each of them twelve codes that tie up to their own rounding.

    The last digit of one element of each code is all that tells the twelve apart, so that the
    nearest in fp32 products is another one more often than not.
    """
    direction = torch.nn.functional.normalize(torch.randn(ROWS, d, dtype=torch.float64), dim=1)
    direction = direction + 0.05 * direction.sign()  # no element is all but 0
    z = (distance * direction + offset).to(dtype).double()
    # x . y is the largest where y is a multiple of x, so that no other row's codes come close.
    y = 0.9 * direction[:, None] + 0.1 * torch.randn(ROWS, TIED, d, dtype=torch.float64)
    x = (z - offset)[:, None]
    axis = direction.abs().argmax(1)
    best = (y.square() - 2 * x * y).sum(2).min(1, keepdim=True)[0]
    at = axis[:, None, None].expand(-1, TIED, 1)
    for _ in range(4):
        score = (y.square() - 2 * x * y).sum(2)
        slope = 2 * (y - x).gather(2, at)
        y.scatter_add_(2, at, (best - score)[..., None] / slope)
    rest = 0.5 * torch.randn(k - ROWS * TIED, d, dtype=torch.float64).clamp(-1, 1)
    codebook = (torch.cat([y.reshape(-1, d), rest]) + offset)[torch.randperm(k)]
    return z.to(dtype), codebook.to(dtype)


@pytest.mark.parametrize("d", (1, 2, 3, 4, 6, 8, 11, 16))
def test_ties_up_to_rounding(d: int, way: str) -> None:
    """Presses against the margin of the products."""
    for distance, offset in ((1e2, 0), (1e4, 0), (1e5, 64), (1e8, 0)):
        check(*tied_far(d, 400, distance, offset, torch.float32))


@pytest.mark.parametrize("d", (2, 4, 8))
def test_codes_that_fp32_rounds(d: int, way: str) -> None:
    """fp64 codes, whose own rounding counts as well."""
    for distance, offset in ((1e2, 0), (1e4, 1000), (1e6, 0)):
        z, codebook = tied_far(d, 400, distance, offset, torch.float64)
        check(z, codebook)
        check(z, codebook + 1e-9 * torch.randn_like(codebook))
        check(z.float(), codebook)


def test_branches_and_leaves(way: str) -> None:
    """So many codes that branches of leaves are compared first."""
    for d in (2, 4, 8):
        z, codebook = torch.randn(40, d), torch.randn(5000, d)
        check(300 * z, codebook)
        check(z, torch.empty(5000, d).uniform_(-1 / 5000, 1 / 5000))
        check(z, torch.randn(d) * (1 + 3e-7 * codebook))


def test_near_and_far_rows_in_turn(way: str) -> None:
    """Both kinds in a block, in numbers that fill no group of rows searched side by side."""
    for n, d in itertools.product((1, 3, 5, 97), (2, 4, 9)):
        z, codebook = torch.randn(n, d), torch.randn(700, d)
        z[::3] *= 1e3
        z[1::5] *= 1e7
        z[2::7] = torch.nan
        check(z, codebook)


def test_where_rows_become_far(way: str) -> None:
    """On both sides of sixteen radii, in the directions of the corners and of the axes."""
    for d in (1, 4, 8):
        codebook = torch.randn(600, d)
        low, high = codebook.min(0)[0], codebook.max(0)[0]
        radius = (high - low).norm() / 2
        corners = torch.randint(2, (40, d)) * 2.0 - 1
        axes = torch.eye(d).repeat(4, 1) * corners[: 4 * d]
        directions = torch.nn.functional.normalize(torch.cat([corners, axes]), dim=1)
        for factor in (15.9, 16, 16.1):
            check((low + high) / 2 + factor * radius * directions, codebook)


def test_scales(way: str) -> None:
    """Codes from the smallest radius for which products are trusted to the largest numbers."""
    for d, exponent in itertools.product((2, 8), (-140, -120, -90, -60, -40, -20, 20, 50)):
        z, codebook = torch.randn(30, d, dtype=torch.float64), torch.randn(300, d)
        rows = (z * 2.0 ** torch.linspace(4, 40, 30)[:, None].double() * 2.0**exponent).float()
        check(rows, codebook * 2.0**exponent)
        # One element as large as others are small: the radius is far below the codes.
        codebook = torch.cat([torch.ones(300, 1), codebook * 2.0**exponent], 1)
        check(torch.cat([torch.randn(30, 1), rows], 1), codebook)


@pytest.mark.usefixtures("restore_threads")
def test_threads_and_parts(way: str) -> None:
    z, codebook = tied_far(4, 3000, 1e4, 0, torch.float32)
    for threads, n in itertools.product((1, 2, 5), (3, len(z))):
        torch.set_num_threads(threads)
        check(z[:n], codebook)


def test_no_row_is_left_open(way: str) -> None:
    """The data this is for: a codebook as VQGAN initialises it, and a collapsed one."""
    z = torch.randn(500, 4)
    for codebook in (
        torch.empty(8192, 4).uniform_(-1 / 8192, 1 / 8192),
        torch.randn(4) * (1 + 3e-7 * torch.randn(8192, 4)),
    ):
        check(z, codebook)  # seen for the first time it may not be worth ordering
        ops.nearest_code_counters(reset=True)
        for _ in range(3):
            check(z, codebook)
        counters = ops.nearest_code_counters()
        assert counters["calls_boxes"] == 3
        assert counters["rows_direct"] + counters["rows_scan"] == 0


@pytest.mark.parametrize("screen", ["int16", "int8"])
@pytest.mark.parametrize("level", LEVELS)
def test_no_row_of_a_block_has_a_bound(
    level: str, screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a codebook so large that int16 fetches it ahead."""
    force_way(screen, level, monkeypatch)
    codebook = torch.randn(4500, 120)
    z = torch.randn(5, 120).double() * 1e20
    check(z, codebook.double())
    check(z.float(), codebook)
