"""The CUDA kernels, run by the host's compiler and fibers, against the definitions.

What this shows, and what only a GPU can, is told in emulated/cuda_runtime_api.h.
"""

from __future__ import annotations

import pytest
import torch
from search_cases import CASES

ALL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Threads in order, backwards, and two shuffles: a missing barrier shows as a difference.
SCHEDULES = (0, 1, 2, 3, -1, -2)


def randn(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_same_search(kernels, z, codebook):
    expected_indices, expected_distances = kernels.oracle(z, codebook)
    indices, distances = kernels.nearest_code(z, codebook)
    assert torch.equal(indices, expected_indices)
    assert torch.equal(distances.isnan(), expected_distances.isnan())
    assert torch.equal(distances.nan_to_num(), expected_distances.nan_to_num())


@pytest.mark.parametrize("dim", [1, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_nearest_code_is_the_definition_to_the_bit(kernels, dim):
    assert_same_search(kernels, randn(70, dim), randn(131, dim, seed=1))


@pytest.mark.parametrize("case", CASES)
def test_nearest_code_where_it_goes_wrong_easily(kernels, case):
    assert_same_search(kernels, *CASES[case](50, 90, 10))


@pytest.mark.parametrize(
    ("num_rows", "num_codes"), [(1, 1), (1, 300), (64, 64), (65, 65), (130, 1), (63, 127)]
)
@pytest.mark.parametrize("multiprocessors", [1, 3, 16])
def test_nearest_code_at_the_edges_of_tiles_and_splits(
    kernels, num_rows, num_codes, multiprocessors
):
    kernels.emulate(multiprocessors=multiprocessors)
    assert_same_search(kernels, randn(num_rows, 5), randn(num_codes, 5, seed=1))


@pytest.mark.parametrize("z_dtype", ALL_DTYPES)
@pytest.mark.parametrize("codebook_dtype", ALL_DTYPES)
def test_nearest_code_of_every_pair_of_dtypes(kernels, z_dtype, codebook_dtype):
    z = randn(20, 6, dtype=z_dtype)
    assert_same_search(kernels, z, randn(40, 6, seed=1, dtype=codebook_dtype))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("multiprocessors", [1, 8])  # ties in one thread, and between splits
def test_nearest_code_ties_go_to_the_lowest_code(kernels, multiprocessors, schedule):
    kernels.emulate(multiprocessors, schedule)
    few = randn(7, 4).round()
    codebook = few[torch.arange(200) % 7]  # each code again and again, in every tile and split
    z = torch.cat([few, (few[:1] + few[1:2]) / 2])  # the last one half-way between two
    assert_same_search(kernels, z, codebook)
    indices, _ = kernels.nearest_code(z, codebook)
    assert indices.max() < 7


def test_nearest_code_reads_strided_rows_in_place(kernels):
    images = randn(3, 9, 4, 5)
    codebook = randn(18, 70, seed=1).t()[:, ::2]
    z = images.movedim(1, -1)
    assert not z.is_contiguous() and not codebook.is_contiguous()
    assert_same_search(kernels, z, codebook)
    assert_same_search(kernels, randn(40, 18)[::2, ::2], codebook)


def test_nearest_code_with_values_that_are_not_finite(kernels):
    inf, nan = float("inf"), float("nan")
    z = randn(8, 3)
    z[1, 2], z[2, 0], z[3, 1] = nan, inf, -inf
    codebook = randn(70, 3, seed=1)
    codebook[0], codebook[3, 1], codebook[5, 2] = nan, inf, nan
    assert_same_search(kernels, z, codebook)
    assert_same_search(kernels, z, torch.full((66, 3), nan))
    assert_same_search(kernels, z, torch.full((66, 3), inf))
    assert_same_search(kernels, 1e200 * z.double(), codebook)  # overflows to an infinite distance


def test_nearest_code_of_huge_tiny_and_subnormal_values(kernels):
    for scale in (1e30, 1e-30, 1e-42):
        assert_same_search(kernels, scale * randn(20, 4), scale * randn(70, 4, seed=1))
    subnormal = randn(20, 4, dtype=torch.float16) * 2**-20
    assert_same_search(kernels, subnormal, randn(70, 4, seed=1, dtype=torch.float16) * 2**-20)


def test_nearest_code_rounds_distances_once(kernels):
    z, codebook = randn(30, 5), randn(20, 5, seed=1)
    _, expected = kernels.oracle(z, codebook)
    _, distances = kernels.nearest_code(z, codebook, distance_dtype=torch.float32)
    assert torch.equal(distances, expected.float())


@pytest.mark.parametrize("z_dtype", ALL_DTYPES)
@pytest.mark.parametrize("codebook_dtype", ALL_DTYPES)
def test_straight_through_rounds_as_torch_does(kernels, z_dtype, codebook_dtype):
    z = (3 * randn(2, 7, 3, 4, dtype=torch.float64)).to(z_dtype).movedim(1, -1)
    codebook = randn(11, 7, seed=1, dtype=codebook_dtype)
    indices = torch.arange(24).view(2, 3, 4) % 11
    z_q = kernels.straight_through(z, codebook, indices)
    assert z_q.stride() == z.stride()
    expected = (z + (codebook[indices] - z)).to(z_dtype)
    assert torch.equal(z_q, expected)


def every_half():
    """Each of the 65536 bit patterns of a 16-bit float."""
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_conversions_are_torchs(kernels, dtype):
    # z + (e - z) with z = 0 hands e through the loader, the rounding and the storer.
    patterns = every_half().view(dtype)[:, None]
    zeros = torch.zeros_like(patterns)
    indices = torch.arange(len(patterns))
    for codebook in (patterns, between(patterns)):
        z_q = kernels.straight_through(zeros, codebook, indices)
        expected = codebook.to(dtype)
        assert torch.equal(z_q.isnan(), expected.isnan())
        assert torch.equal(z_q.nan_to_num(), expected.nan_to_num())


def between(patterns):
    """fp32 values at, below and above the middle of each value and its neighbour."""
    value = patterns.float()
    middle = (value + value.roll(-1, 0)) / 2
    choice = torch.arange(len(value))[:, None] % 3
    up = torch.nextafter(middle, torch.full_like(middle, float("inf")))
    down = torch.nextafter(middle, torch.full_like(middle, -float("inf")))
    return torch.where(choice == 0, middle, torch.where(choice == 1, up, down))


@pytest.mark.parametrize("count", [1, 255, 4096, 4097, 20000])
def test_mean_distance(kernels, count):
    distances = randn(count, dtype=torch.float64).abs()
    expected = distances.sum() / (3 * count)
    for dtype, rtol in ((torch.float64, 1e-14), (torch.float32, 1e-7)):
        losses = kernels.mean_distance(distances, 3 * count, dtype)
        assert losses[0] == losses[1]
        torch.testing.assert_close(losses[0].double(), expected, rtol=rtol, atol=0)
    for schedule in SCHEDULES[1:]:
        kernels.emulate(schedule=schedule)
        again = kernels.mean_distance(distances, 3 * count, torch.float32)
        assert torch.equal(again, losses)
    distances[count // 2] = float("nan")
    assert kernels.mean_distance(distances, 1, torch.float32).isnan().all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("num_rows", "num_codes"), [(1, 1), (31, 5), (1024, 255), (1025, 256), (5000, 70000)]
)
def test_order_by_code_is_a_stable_sort(kernels, num_rows, num_codes, schedule):
    kernels.emulate(schedule=schedule)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(num_codes, (num_rows,), generator=generator)
    indices[::7] = num_codes - 1  # a crowded code
    order, starts = kernels.order_by_code(indices, num_codes)
    assert torch.equal(order, indices.argsort(stable=True))
    counts = torch.bincount(indices, minlength=num_codes)
    assert torch.equal(starts.diff(), counts) and starts[0] == 0


def sums_in_order(z, indices, num_codes):
    """The sum of the rows of each code in fp64, one row after the other."""
    sums = torch.zeros(num_codes, z.shape[-1], dtype=torch.float64)
    for row, index in zip(z.reshape(-1, z.shape[-1]).double(), indices.flatten(), strict=True):
        sums[index] += row
    return sums


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_codebook_stats(kernels, dtype):
    z = randn(2, 35, 9, 10, dtype=dtype).movedim(1, -1)
    indices = torch.randint(9, (2, 9, 10), generator=torch.Generator().manual_seed(0)) * 2
    indices[:, ::2] = 4  # more rows than registers hold at a time
    counts, sums = kernels.codebook_stats(z, indices, 20)
    assert torch.equal(counts, torch.bincount(indices.flatten(), minlength=20))
    assert torch.equal(sums, sums_in_order(z, indices, 20).to(sums.dtype))
    for schedule in SCHEDULES[1:]:
        kernels.emulate(schedule=schedule)
        assert torch.equal(kernels.codebook_stats(z, indices, 20)[1], sums)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("dim", [1, 4, 6, 128, 132, 300])
def test_sums_of_rows_that_lie_side_by_side(kernels, dim, dtype):
    for rows in (randn(90, dim, dtype=dtype), randn(90, dim + 3, dtype=dtype)[:, 1 : dim + 1]):
        indices = torch.arange(90) ** 2 % 13  # of some codes 14 or 15 rows, of others none
        indices[60:] = 5
        counts, sums = kernels.codebook_stats(rows, indices, 19)
        assert torch.equal(counts, torch.bincount(indices, minlength=19))
        assert torch.equal(sums, sums_in_order(rows, indices, 19).to(sums.dtype))


@pytest.mark.parametrize("bad", [-1, 20, 2**40])
def test_an_index_outside_the_codebook_shows_and_harms_nothing_else(kernels, bad):
    z, codebook = randn(50, 3), randn(20, 3, seed=1)
    indices = torch.arange(50) % 20
    indices[7] = bad
    counts, sums = kernels.codebook_stats(z, indices, 20)
    assert counts.sum() == 49
    assert sums.isnan().all()
    grad = kernels.grad_z(None, 1.0, z, codebook, indices)
    assert grad[7].isnan().all()
    assert grad.isfinite().all(dim=1).sum() == 49
    assert kernels.grad_codebook(1.0, z, codebook, indices).isfinite().all()


@pytest.mark.parametrize("with_grad_z_q", [True, False])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_gradients_are_those_of_the_mean_squared_error(kernels, dtype, with_grad_z_q):
    z = randn(2, 35, 5, 6, dtype=dtype).movedim(1, -1)
    codebook = randn(9, 35, seed=1, dtype=dtype)
    indices = torch.randint(8, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    grad_z_q = randn(*z.shape, seed=2, dtype=dtype) / 100 if with_grad_z_q else None
    grad_z = kernels.grad_z(grad_z_q, 0.3, z, codebook, indices)
    grad_codebook = kernels.grad_codebook(0.7, z, codebook, indices)

    x, e = (t.double().detach().requires_grad_() for t in (z, codebook))
    square = (x - e[indices].detach()).square().mean() * 0.3
    square = square + (x.detach() - e[indices]).square().mean() * 0.7
    square.backward()
    expected_z = x.grad if grad_z_q is None else x.grad + grad_z_q.double()
    # The factors come in as fp32; results are rounded once to dtype.
    rtol = max(1e-7, torch.finfo(dtype).eps)
    torch.testing.assert_close(grad_z.double(), expected_z, rtol=rtol, atol=rtol * 1e-2)
    torch.testing.assert_close(grad_codebook.double(), e.grad, rtol=rtol, atol=rtol * 1e-2)

    # To the bit, what the CPU computes in the same steps.
    scale = torch.tensor([0.3, 0.7]).double() * (2.0 / z.numel())
    in_steps = scale[0] * (z.double() - codebook.double()[indices])
    in_steps = in_steps if grad_z_q is None else in_steps + grad_z_q.double()
    assert torch.equal(grad_z, in_steps.to(dtype))
    counts = torch.bincount(indices.flatten(), minlength=9)[:, None].double()
    in_steps = scale[1] * (counts * codebook.double() - sums_in_order(z, indices, 9))
    assert torch.equal(grad_codebook, in_steps.to(dtype))
    assert grad_z.stride() == z.stride()
    assert (grad_codebook[8] == 0).all()


def test_a_code_without_rows_has_no_gradient_even_if_it_is_nan(kernels):
    z, codebook = randn(5, 3), randn(4, 3, seed=1)
    codebook[3] = float("nan")
    grad = kernels.grad_codebook(1.0, z, codebook, torch.tensor([0, 1, 2, 0, 1]))
    assert (grad[3] == 0).all() and grad[:3].isfinite().all()
