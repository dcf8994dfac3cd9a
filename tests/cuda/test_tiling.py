"""Index arithmetic and launch plans of the CUDA kernels against brute force."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from emulated_kernels import rows_of


@pytest.mark.parametrize(
    ("num_codes", "passes"),
    [(1, 1), (255, 1), (256, 2), (16384, 2), (65535, 2), (65536, 3), (2**24, 4), (2**40, 6)],
)
def test_sort_passes_are_the_digits_of_the_largest_key(kernels, num_codes, passes):
    kernels.library.sort_passes.argtypes = [ctypes.c_int64]
    assert kernels.library.sort_passes(num_codes) == passes
    assert 256**passes > num_codes >= 256 ** (passes - 1) - (passes == 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(35.0).view(7, 5),
        lambda: torch.arange(35.0).view(5, 7).t(),
        lambda: torch.arange(70.0).view(7, 10)[::2, 1::3],
        lambda: torch.arange(5.0).expand(7, 5),
        lambda: torch.arange(120.0).view(2, 5, 3, 4).movedim(1, -1),
        lambda: torch.arange(240.0).view(4, 5, 3, 4)[1::2].movedim(1, -1),
    ],
    ids=["rows", "columns", "slices", "broadcast", "images", "every other image"],
)
def test_row_offset_finds_every_element(kernels, make):
    tensor = make()
    flat = tensor.as_strided((tensor.untyped_storage().nbytes() // 4,), (1,), 0)
    start = tensor.storage_offset()
    rows = rows_of(tensor)
    kernels.library.row_offset.restype = ctypes.c_int64
    for n, row in enumerate(tensor.reshape(-1, tensor.shape[-1])):
        offset = kernels.library.row_offset(ctypes.byref(rows), ctypes.c_int64(n))
        for d, value in enumerate(row):
            assert flat[start + offset + d * rows.element_stride] == value


def test_row_offset_is_64_bit(kernels):
    rows = rows_of(torch.zeros(2, 3, 4, 5).movedim(1, -1))
    rows.inner_rows, rows.outer_stride, rows.inner_stride = 2**33, 2**41, 1
    kernels.library.row_offset.restype = ctypes.c_int64
    row = 5 * 2**33 + 2**32 + 3
    got = kernels.library.row_offset(ctypes.byref(rows), ctypes.c_int64(row))
    assert got == 5 * 2**41 + 2**32 + 3


def fold(kernels, pairs):
    distances = (ctypes.c_double * len(pairs))(*(pair[0] for pair in pairs))
    codes = (ctypes.c_int64 * len(pairs))(*(pair[1] for pair in pairs))
    distance, code = ctypes.c_double(), ctypes.c_int64()
    kernels.library.fold_nearest(
        distances,
        codes,
        ctypes.c_int64(len(pairs)),
        ctypes.byref(distance),
        ctypes.byref(code),
    )
    return distance.value, code.value


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(3.0, 5), (2.0, 9), (2.0, 4), (7.0, 0)], (2.0, 4)),
        ([(float("inf"), 2), (float("inf"), 1), (0.0, -1)], (float("inf"), 1)),
        ([(0.0, -1), (5.0, 3), (0.0, -1)], (5.0, 3)),
    ],
    ids=["tie", "infinite", "none so far"],
)
def test_merging_splits_does_not_depend_on_their_order(kernels, pairs, expected):
    for order in itertools.permutations(pairs):
        assert fold(kernels, order) == expected
