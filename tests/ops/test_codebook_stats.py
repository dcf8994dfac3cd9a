from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from search_cases import DTYPES
from torch import Tensor

from vqgan_fast import ops


def randn(*sizes: int) -> Tensor:
    """fp64 numbers of 53 bits: sums of fewer bits are the same in any order."""
    return torch.randn(*sizes, dtype=torch.float64)


def plain(z: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Counts, and fp64 sums in the order of the rows."""
    rows, flat = z.reshape(-1, z.shape[-1]).double(), indices.reshape(-1)
    sums = torch.zeros(num_codes, z.shape[-1], dtype=torch.float64).index_add_(0, flat, rows)
    return torch.bincount(flat, minlength=num_codes), sums


def assert_is_plain(z: Tensor, indices: Tensor, num_codes: int) -> None:
    counts, sums = ops.codebook_stats(z, indices, num_codes)
    expected_counts, expected_sums = plain(z, indices, num_codes)
    assert torch.equal(counts, expected_counts)
    assert sums.dtype == (torch.float64 if z.dtype == torch.float64 else torch.float32)
    # Both add rows in ascending order, so that even the roundings agree.
    assert torch.equal(sums, expected_sums.to(sums.dtype))


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 3, 4, 8, 12, 16, 23, 64, 65, 130])
def test_sizes_and_types(dtype: torch.dtype, d: int) -> None:
    for n, num_codes in ((0, 4), (1, 1), (50, 7), (200, 300), (400, 128)):
        z = randn(n, d).to(dtype)
        assert_is_plain(z, torch.randint(num_codes, (n,)), num_codes)


@pytest.mark.parametrize("used", [1, 3])
def test_a_collapsed_codebook(used: int) -> None:
    assert_is_plain(randn(5000, 70), torch.randint(used, (5000,)), 500)


@pytest.mark.usefixtures("level")
def test_memory_layouts() -> None:
    images, codes = randn(3, 20, 4, 5), torch.randint(9, (3, 4, 5))
    assert_is_plain(images.movedim(1, -1), codes, 9)
    assert_is_plain(images.to(memory_format=torch.channels_last).movedim(1, -1), codes, 9)
    assert_is_plain(torch.randn(3, 20, 9, 9)[:, :, 2:6, 1:6].movedim(1, -1), codes, 9)
    assert_is_plain(images.movedim(1, -1), codes.movedim(0, -1).contiguous().movedim(-1, 0), 9)
    assert_is_plain(torch.randn(1, 6).expand(60, 6), torch.randint(9, (60,)), 9)
    assert_is_plain(torch.randn(1, 24)[:, ::2].expand(60, 12), torch.randint(9, (60,)), 9)
    assert_is_plain(torch.randn(6, 1).expand(6, 40), torch.randint(9, (6,)), 9)
    # Contiguous latents that do not follow each other at equal distances.
    assert_is_plain(torch.randn(4, 9, 20)[:, 1:], torch.randint(9, (4, 8)), 9)
    assert_is_plain(randn(40, 9, 4)[:, 2:], torch.randint(99, (40, 7)), 99)
    cropped = torch.randn(3, 20, 9, 9).to(memory_format=torch.channels_last)[:, :, 2:6, 1:6]
    assert_is_plain(cropped.movedim(1, -1), codes, 9)
    assert_is_plain(torch.randn(300, 80)[::3, ::2], torch.randint(9, (100,)), 9)
    assert_is_plain(torch.randn(70, 300).T[:, ::2], torch.randint(9, (300,)), 9)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_images_of_every_type(dtype: torch.dtype) -> None:
    for channels, side in ((37, 1), (37, 2), (37, 3), (46, 9), (21, 16)):
        images = randn(2, channels, side, side).to(dtype)
        assert_is_plain(images.movedim(1, -1), torch.randint(9, (2, side, side)), 9)


# Many blocks of columns or one; whole vectors of columns, which have loops of their own; far more
# codes than rows; sums that outgrow the caches.
SPREADS = {
    "wide": (6000, 100, 90),
    "narrow": (6000, 100, 7),
    "four columns": (6000, 5000, 4),
    "eight columns": (6000, 5000, 8),
    "more codes than rows": (700, 50000, 33),
    "many open sums": (40000, 60000, 6),
    "rows that threads share out": (70000, 3000, 5),
}


@pytest.mark.usefixtures("level", "restore_threads")
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("spread", SPREADS)
def test_the_same_bits_at_every_thread_count_and_layout(spread: str, collapsed: bool) -> None:
    n, num_codes, d = SPREADS[spread]
    images = randn(2, d, n // 2)
    indices = torch.randint(num_codes, (2, n // 2))
    if collapsed:
        indices[torch.rand(indices.shape) < 0.9] = num_codes // 3
    columns = images.movedim(1, -1)
    rows = columns.contiguous()
    gapped = torch.cat([rows, rows[:, :3]], dim=1)[:, : n // 2]
    for z in (columns, rows, gapped, columns.float(), rows.float()):
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            torch.full((num_codes, d), torch.nan)  # memory that comes again is not all zeros
            assert_is_plain(z, indices, num_codes)


@pytest.mark.usefixtures("level")
def test_no_sum_is_minus_zero() -> None:
    """Sums begin at 0, and 0 + -0 is 0."""
    for d in (3, 4, 8, 40):
        z, indices = torch.full((70, d), -0.0), torch.arange(70) // 2
        for layout in (z, z.T.contiguous().T):
            assert not ops.codebook_stats(layout, indices, 40)[1].signbit().any()


@pytest.mark.usefixtures("level")
def test_flushing_subnormals_does_not_matter() -> None:
    z = 1e-40 * torch.randn(2, 40, 30, 30)
    indices = torch.randint(9, (2, 30, 30))
    expected = ops.codebook_stats(z.double().movedim(1, -1), indices, 9)[1].float()
    assert (expected.abs() < torch.finfo(torch.float32).tiny).any()
    assert torch.set_flush_denormal(True)
    try:
        found = [
            ops.codebook_stats(layout, indices, 9)[1]
            for layout in (z.movedim(1, -1), z.movedim(1, -1).contiguous())
        ]
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.usefixtures("level")
def test_latents_that_are_not_finite_stay_with_their_codes() -> None:
    z = torch.randn(2, 21, 6, 6)
    z[0, 3, 1, 1], z[1, 20, 5, 5] = torch.nan, torch.inf
    indices = (torch.arange(72) % 7).view(2, 6, 6)
    for layout in (z.movedim(1, -1), z.movedim(1, -1).contiguous()):
        found = ops.codebook_stats(layout, indices, 9)[1]
        torch.testing.assert_close(found, plain(layout, indices, 9)[1].float(), equal_nan=True)
        assert not found[indices[0, 1, 1], 3].isfinite()


def test_a_process_that_knows_no_more_than_the_baseline() -> None:
    """Loops over tiles take their SIMD level once in a process, so `level` does not reach them."""
    here = Path(__file__).parent
    files = [__file__, *map(str, here.glob("test_vector_quantize*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    chosen = "(layout or images or types or rounded_once) and not avx and not amx"
    done = subprocess.run(
        [*command, "-k", chosen, *files],
        env=os.environ | {"VQGAN_FAST_ISA": "baseline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_last_codes_have_no_rows() -> None:
    for num_codes in (3, 70, 5000):
        assert_is_plain(torch.randn(600, 40), torch.randint(2, (600,)), num_codes)
        assert_is_plain(torch.randn(600, 2), torch.randint(2, (600,)), num_codes)


def test_gradient() -> None:
    indices = torch.tensor([[0, 2, 2], [4, 0, 2]])
    z = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: ops.codebook_stats(z, indices, 5)[1], z)
    low = torch.randn(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.randn(5, 4)
    (weights * ops.codebook_stats(low, indices, 5)[1]).sum().backward()
    assert torch.equal(low.grad, weights[indices].bfloat16())


def bad_inputs() -> dict[str, tuple[Tensor, Tensor, int, str]]:
    z, indices = torch.zeros(5, 8), torch.tensor([0, 1, 2, 3, 9])
    return {
        "too large": (z, indices, 9, r"indices must lie in \[0, 9\), got 9 at flat position 4"),
        "negative": (z, indices - 1, 9, r"indices must lie in \[0, 9\), got -1 at flat position 0"),
        "int32": (z, indices.int(), 10, "indices must be int64, got"),
        "sparse": (z, indices.to_sparse(), 10, "indices must be a dense tensor, got layout"),
        "shape": (z, indices[:4], 10, r"shape of z \(5, 8\) without its last dimension, got \(4,"),
        "no codes": (z, indices, 0, "num_codes must be at least 1, got 0"),
        "too many codes": (
            z,
            indices,
            2**62,
            r"num_codes must be at most \d+ with D = 8, got 4611",
        ),
        "integer z": (
            z.long(),
            indices,
            10,
            "z must be float16, bfloat16, float32 or float64, got",
        ),
        "z is a row": (z[0], indices, 10, r"z must be \(\.\.\., N, D\), got \(8,\)"),
        "D = 0": (z[:, :0], indices, 10, r"z must be .* with D >= 1, got \(5, 0\)"),
    }


@pytest.mark.parametrize("problem", bad_inputs())
def test_bad_input_is_named(problem: str) -> None:
    z, indices, num_codes, message = bad_inputs()[problem]
    with pytest.raises(RuntimeError, match=message):
        ops.codebook_stats(z, indices, num_codes)
