"""Codebooks with many equal codes: they are searched as one, and the first of them is the index."""

from __future__ import annotations

import pytest
import torch
from search_cases import DTYPES, assert_is_oracle
from torch import Tensor

from vqgan_fast import ops


def check(z: Tensor, codebook: Tensor) -> None:
    """Three times: packed anew, packed to be kept, and kept."""
    for _ in range(3):
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def repeated(k: int, different: int, d: int) -> Tensor:
    return torch.randn(different, d)[torch.randint(different, (k,))]


@pytest.mark.parametrize("different", (1, 2, 5, 40, 300))
def test_first_of_equals(different: int, way: str) -> None:
    for d in (1, 4, 9, 33):
        check(torch.randn(120, d), repeated(600, different, d))
    for d in (2, 6):
        check(torch.randn(3, d), repeated(600, different, d))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_dtype_and_layout(dtype: torch.dtype, way: str) -> None:
    codebook = repeated(500, 60, 7).to(dtype)
    z = torch.randn(110, 7).to(dtype)
    check(z, codebook)
    check(z, codebook.t().contiguous().t())
    check(z, torch.cat([codebook, codebook], 1)[:, ::2].contiguous()[:, :7])
    check(z, codebook.repeat_interleave(2, 1)[:, ::2])
    check(z, codebook.flip(0))


def test_both_zeros_are_equal(way: str) -> None:
    """0.0 and -0.0 are the same number in two forms: the first index wins whichever it has."""
    for d in (1, 4, 20):
        codebook = torch.zeros(400, d)
        codebook[torch.rand(400, d) < 0.5] = -0.0
        check(torch.randn(100, d), codebook)


def test_equal_codes_that_are_not_finite(way: str) -> None:
    for d in (2, 12):
        z = torch.randn(100, d)
        codebook = repeated(300, 10, d)
        codebook[::3, 0] = torch.nan
        codebook[1::3, 1] = torch.inf
        check(z, codebook)
        codebook[:, 0] = torch.nan
        check(z, codebook)
        check(z, torch.full((300, d), torch.inf))
        zeros = torch.zeros(300, d)
        zeros[:100] = torch.nan
        check(z, zeros)


def test_distances_beyond_fp64(way: str) -> None:
    check(torch.full((100, 3), 1e200, dtype=torch.float64), torch.zeros(300, 3))


@pytest.mark.usefixtures("restore_threads")
def test_threads_and_parts(way: str) -> None:
    codebook = repeated(3000, 1000, 4)
    zeros = torch.zeros(3000, 4)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        for n in (3, 150):
            check(torch.randn(n, 4), codebook)
            check(torch.randn(n, 4), zeros)


@pytest.mark.usefixtures("restore_threads")
def test_equal_codes_are_left_out(way: str) -> None:
    """Seen by what decides the rows: where each code came twenty times, none would be proven."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        z, codebook = torch.randn(300, 4), repeated(6000, 300, 4)
        ops.nearest_code_counters(reset=True)
        check(z, codebook)
        counters = ops.nearest_code_counters()
        if way == "direct":
            assert counters["rows_screen"] == 0
        elif way == "int8":  # proves few rows: as many as with the different codes alone
            first = (codebook[:, None] == codebook).all(2).int().argmax(1)
            check(z, codebook[first == torch.arange(len(codebook))])
            different = ops.nearest_code_counters()
            assert 0 < counters["rows_screen"] == different["rows_screen"] - counters["rows_screen"]
        else:
            assert counters["rows_screen"] > 2.5 * len(z)


def test_vector_quantize_takes_the_first(way: str) -> None:
    codebook = repeated(400, 20, 5).requires_grad_()
    z = torch.randn(150, 5)
    _, indices, _, codebook_loss = ops.vector_quantize(z, codebook)
    codebook_loss.backward()
    first = (codebook[:, None] == codebook[None]).all(2).int().argmax(1)
    assert torch.equal(indices, first[indices])
    assert codebook.grad is not None
    assert codebook.grad[first != torch.arange(400)].abs().max() == 0
