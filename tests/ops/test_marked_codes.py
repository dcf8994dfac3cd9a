"""Tight clusters of codes, where most rows have more candidates than a screen hands on."""

from __future__ import annotations

import pytest
import torch
from search_cases import assert_is_oracle
from torch import Tensor

from vqgan_fast import _native, ops

# Several blocks of each screen: what it saw in one decides how it goes on.
ROWS = 700


def clusters(d: int, of: int, width: float, k: int = 1500) -> tuple[Tensor, Tensor]:
    """Codes in clusters of so many, and rows among them."""
    centres = torch.randn(k // of, d)
    codebook = centres[torch.arange(k) % len(centres)] + width * torch.randn(k, d)
    return codebook[torch.randint(k, (ROWS,))] + width * torch.randn(ROWS, d), codebook


def check(z: Tensor, codebook: Tensor) -> dict[str, int]:
    ops.nearest_code_counters(reset=True)
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
    return ops.nearest_code_counters()


@pytest.mark.parametrize("d", (16, 40, 72))
def test_clusters(d: int, way: str) -> None:
    counters = check(*clusters(d, 60, 1e-4))
    level = _native.cpu_features()["selected"]
    if way == "int16" and (level not in ("avx2", "avxvnni") or d >= 48):
        assert counters["rows_candidates"] == ROWS
    check(*clusters(d, 20, 1e-5))
    check(*clusters(d, 500, 1e-4))  # more than are measured one by one


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_clusters_of_other_types(dtype: torch.dtype, way: str) -> None:
    z, codebook = clusters(48, 60, 1e-2 if dtype == torch.bfloat16 else 1e-3)
    check(z.to(dtype), codebook.to(dtype))


def test_clusters_of_which_codes_are_equal(way: str) -> None:
    """A screen that packs the different ones alone numbers them anew."""
    z, codebook = clusters(48, 60, 1e-4)
    codebook[1::2] = codebook[torch.randint(750, (750,)) * 2]
    check(z, codebook)


def test_ordinary_rows_after_clusters(way: str) -> None:
    """Limits that come from a part of the codes, and a block that is no longer like the last."""
    z, codebook = clusters(48, 60, 1e-4)
    z[250:] = torch.randn(ROWS - 250, 48)
    check(z, codebook)
    check(z.flip(0), codebook)


def test_clusters_behind_codes_that_are_none(way: str) -> None:
    """The codes from which limits come are not finite, or nearly all."""
    z, codebook = clusters(48, 60, 1e-4)
    codebook[:190] = torch.inf
    codebook[100, :] = 0.0
    codebook[1400:, 3] = torch.nan
    check(z, codebook)


@pytest.mark.parametrize("width", (1e-4, 0.1))
def test_what_is_no_code_has_the_smallest_score(width: float, way: str) -> None:
    """The codes of which the centre is made are not finite, so it is 0; all others lie on one side,
    and rows far away on the other: products put them all behind a place where no code is."""
    k, d = 1280, 48
    codebook = 1 + width * torch.randn(k, d)
    codebook[::20] = torch.nan
    z = -(2.0 ** torch.linspace(8, 26, ROWS))[:, None] * (1 + 0.1 * torch.randn(ROWS, d))
    check(z, codebook)


@pytest.mark.parametrize("scale", (1e-25, 1e25))
def test_clusters_whose_squares_fp32_does_not_hold(scale: float, way: str) -> None:
    z, codebook = clusters(49, 60, 1e-4)
    check(scale * z, scale * codebook)


def test_clusters_in_columns(way: str) -> None:
    z, codebook = clusters(49, 60, 1e-4)
    check(z, codebook.t().contiguous().t())


def test_clusters_split_between_threads(way: str) -> None:
    """Few rows: each thread has a part of the codes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        z, codebook = clusters(48, 60, 1e-4, k=6000)
        check(z[:40], codebook)
        check(z, codebook)
    finally:
        torch.set_num_threads(threads)
