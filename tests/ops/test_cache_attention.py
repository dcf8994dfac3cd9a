"""`window_attention` and `grid_attention` against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops
from vqgan_fast.ops import reference

HEAD_DIMS = (8, 24, 32, 40, 64, 96, 128)
CACHE_TYPES = (torch.float32, torch.bfloat16)
INF, NAN = float("inf"), float("nan")


def heads(rows: int, num_heads: int, head_dim: int) -> list[Tensor]:
    return [torch.randn(rows, num_heads, head_dim) for _ in range(3)]


def caches(*shape: int, dtype: torch.dtype = torch.float32, fill: float = NAN) -> list[Tensor]:
    """Full of NaN, so that an entry that was never written shows if it is read."""
    return [torch.full(shape, fill, dtype=dtype) for _ in range(2)]


def prefilled(slots: int, num_heads: int, length: int, head_dim: int, dtype: torch.dtype):
    """Window caches whose slots hold `length` random entries, and nothing behind them."""
    k_cache, v_cache = caches(slots, num_heads, length + 40, head_dim, dtype=dtype)
    for cache in (k_cache, v_cache):
        cache[:, :, :length] = torch.randn(slots, num_heads, length, head_dim).to(dtype)
    return k_cache, v_cache


def definition(q: Tensor, k_cache: Tensor, v_cache: Tensor, slot: int, ends: int) -> Tensor:
    """fp64 attention of one row, (H, Dh)."""
    keys, values = (cache[slot, :, :ends].double() for cache in (k_cache, v_cache))
    scores = torch.einsum("hd,hed->he", q.double(), keys) / q.shape[-1] ** 0.5
    return torch.einsum("he,hed->hd", scores.softmax(-1), values)


@pytest.mark.parametrize("dtype", CACHE_TYPES, ids=str)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_window_attention_of_a_ragged_batch(
    head_dim: int, dtype: torch.dtype, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (0, 5, 63, 130):
        q, k, v = heads(5, 3, head_dim)
        k_cache, v_cache = prefilled(4, 3, length, head_dim, dtype)
        slots = torch.tensor([2, 0, 2, 3, 2])
        positions = length + torch.tensor([1, 0, 0, 0, 2])
        ends = positions + 1
        ends[4] = length + 3 if length else 3
        before = k_cache.clone(), v_cache.clone()
        y = ops.window_attention(q, k, v, k_cache, v_cache, slots, positions, ends)
        for cache, rows, old in ((k_cache, k, before[0]), (v_cache, v, before[1])):
            assert torch.equal(cache[slots, :, positions], rows.to(dtype))
            cache_without = cache.clone()
            cache_without[slots, :, positions] = old[slots, :, positions]
            assert torch.equal(cache_without.nan_to_num(), old.nan_to_num())
        for r in range(5):
            expected = definition(q[r], k_cache, v_cache, int(slots[r]), int(ends[r]))
            torch.testing.assert_close(y[r].double(), expected, rtol=1e-5, atol=1e-5)
        monkeypatch.setenv("VQGAN_FAST_ISA", "baseline")
        again = ops.window_attention(q, k, v, *before, slots, positions, ends)
        assert torch.equal(y, again)
        monkeypatch.setenv("VQGAN_FAST_ISA", level)
        plain = reference.window_attention(q, k, v, k_cache, v_cache, slots, positions, ends)
        torch.testing.assert_close(y, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("restore_threads")
def test_a_prefill_is_the_same_bits_as_single_rows(level: str) -> None:
    q, k, v = heads(70, 4, 32)
    slots, positions = torch.zeros(70, dtype=torch.int64), torch.arange(70)
    one_by_one = caches(1, 4, 70, 32)
    rows = [slice(r, r + 1) for r in range(70)]
    alone = torch.cat(
        [
            ops.window_attention(
                q[r], k[r], v[r], *one_by_one, slots[r], positions[r], positions[r] + 1
            )
            for r in rows
        ]
    )
    shuffled = torch.randperm(70)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        together = caches(1, 4, 70, 32)
        arguments = (part[shuffled] for part in (q, k, v))
        at = positions[shuffled]
        y = ops.window_attention(*arguments, *together, slots, at, at + 1)
        assert torch.equal(y, alone[shuffled])
        assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))


def test_huge_scores_and_values_that_are_not_finite(level: str) -> None:
    q, k, v = heads(3, 1, 16)
    q *= 1e4
    slots, positions = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    k_cache, v_cache = caches(3, 1, 4, 16)
    y = ops.window_attention(q, k, v, k_cache, v_cache, slots, positions, positions + 1)
    assert torch.equal(y, v)
    k[1] = NAN
    y = ops.window_attention(q, k, v, k_cache, v_cache, slots, positions + 1, positions + 2)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


class GridCase:
    """A grid that is visited in some order; keys and values are functions of the cell."""

    def __init__(self, height: int, width: int, up: int, left: int, right: int):
        self.height, self.width, self.window = height, width, (up, left, right)
        self.q, self.k, self.v = (part.unflatten(0, (height, width)) for part in self._cells())

    def _cells(self) -> list[Tensor]:
        return heads(self.height * self.width, 2, 16)

    def visible(self, i: int, j: int) -> list[tuple[int, int]]:
        up, left, right = self.window
        return [
            (a, b)
            for a in range(max(i - up, 0), i + 1)
            for b in range(max(j - left, 0), min(j + right, self.width - 1) + 1)
            if a < i or b <= j
        ]

    def definition(self, i: int, j: int) -> Tensor:
        cells = self.visible(i, j)
        keys = torch.stack([self.k[cell] for cell in cells], 1).double()
        values = torch.stack([self.v[cell] for cell in cells], 1).double()
        scores = torch.einsum("hd,hed->he", self.q[i, j].double(), keys) / 4
        return torch.einsum("he,hed->hd", scores.softmax(-1), values)

    def run(self, steps: list[list[tuple[int, int]]], ring_rows: int, attention=None) -> Tensor:
        attention = ops.grid_attention if attention is None else attention
        cache = caches(2, 2, ring_rows, self.width + 1, 16)
        y = torch.full_like(self.q, NAN)
        for cells in steps:
            rows, columns = torch.tensor(cells).T.contiguous()
            slots = torch.ones_like(rows)
            parts = (part[rows, columns] for part in (self.q, self.k, self.v))
            where = (slots, rows, columns, self.width, *self.window)
            y[rows, columns] = attention(*parts, *cache, *where)
        return y


GRIDS = [(12, 13, 8, 8, 7), (9, 20, 2, 3, 1), (5, 4, 8, 8, 7), (7, 3, 1, 0, 0), (4, 9, 0, 2, 5)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grid_attention_in_raster_order_and_as_a_wavefront(grid: tuple, level: str) -> None:
    case = GridCase(*grid)
    height, width, up, _, right = grid
    raster = [[(i, j)] for i in range(height) for j in range(width)]
    skew = right + 1
    waves = [
        [(i, t - skew * i) for i in range(height) if 0 <= t - skew * i < width]
        for t in range(skew * (height - 1) + width)
    ]
    y = case.run(raster, up + 1)
    for i, j in ((i, j) for i in range(height) for j in range(width)):
        expected = case.definition(i, j)
        torch.testing.assert_close(y[i, j].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(case.run([wave for wave in waves if wave], up + 2), y)
    plain = case.run(raster, up + 3, reference.grid_attention)
    torch.testing.assert_close(plain, y, rtol=1e-4, atol=1e-5)


def test_a_grid_of_one_row_is_a_window(level: str) -> None:
    q, k, v = heads(20, 2, 32)
    columns, zeros = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    ring, window = caches(1, 2, 1, 20, 32), caches(1, 2, 20, 32)
    y = ops.grid_attention(q, k, v, *ring, zeros, zeros, columns, 20, 0, 20, 0)
    assert torch.equal(y, ops.window_attention(q, k, v, *window, zeros, columns, columns + 1))


def bad_windows() -> dict[str, tuple[dict, str]]:
    three = torch.tensor([0, 1, 2])
    return {
        "slot": ({"slots": three}, r"slots must lie in \[0, 2\), got 2 for row 2"),
        "cache too short": ({"positions": three + 2}, r"positions must lie in \[0, 4\), got 4 for"),
        "nothing to see": ({"ends": three}, r"ends must lie in \[1, 5\), got 0 for row 0"),
        "sees too far": ({"ends": three + 3}, r"ends must lie in \[1, 5\), got 5 for row 2"),
        "int32": ({"ends": three.int()}, "ends must be int64, one for each of the 3 rows"),
        "fewer": ({"slots": three[:2]}, "slots must be int64, one for each of the 3 rows"),
        "heads of 12": ({"q": torch.zeros(3, 2, 12)}, r"q must be \(R, H, Dh\) with Dh a multiple"),
        "shape of k": ({"k": torch.zeros(3, 1, 8)}, r"k must be of the shape of q, float32"),
        "fp16 cache": (
            {"k_cache": torch.zeros(2, 2, 4, 8).half()},
            r"k_cache must be contiguous \(S, H, L, Dh\), float32 or bfloat16",
        ),
        "other cache": ({"v_cache": torch.zeros(2, 2, 5, 8)}, "v_cache must be like k_cache"),
        "strided cache": (
            {"v_cache": torch.zeros(2, 4, 2, 8).transpose(1, 2)},
            "v_cache must be contiguous",
        ),
    }


@pytest.mark.parametrize("problem", bad_windows())
def test_bad_input_of_window_attention_is_named(problem: str) -> None:
    change, message = bad_windows()[problem]
    zeros = torch.zeros(3, dtype=torch.int64)
    arguments = {name: torch.zeros(3, 2, 8) for name in ("q", "k", "v")}
    arguments |= {name: torch.zeros(2, 2, 4, 8) for name in ("k_cache", "v_cache")}
    arguments |= {"slots": zeros, "positions": zeros, "ends": zeros + 1}
    with pytest.raises(RuntimeError, match=message):
        ops.window_attention(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 6}, r"width must lie in \[1, 5\], the cache's columns, got 6"),
        ({"up": 3}, "k_cache must have more than up = 3 ring rows for each head, got 3"),
        ({"left": -1}, "up, left and right must be >= 0"),
        ({"columns": torch.tensor([4])}, r"columns must lie in \[0, 4\), got 4 for row 0"),
        ({"rows": torch.tensor([-1])}, r"rows must lie in \[0, 2147483648\), got -1"),
        ({"slots": torch.tensor([7])}, r"slots must lie in \[0, 2\), got 7"),
        ({"k_cache": torch.zeros(2, 2, 4, 8)}, r"k_cache must be contiguous \(S, H, ring_rows"),
    ],
)
def test_bad_input_of_grid_attention_is_named(change: dict, message: str) -> None:
    zeros = torch.zeros(1, dtype=torch.int64)
    arguments = {name: torch.zeros(1, 2, 8) for name in ("q", "k", "v")}
    arguments |= {name: torch.zeros(2, 2, 3, 5, 8) for name in ("k_cache", "v_cache")}
    arguments |= {"slots": zeros, "rows": zeros, "columns": zeros}
    arguments |= {"width": 4, "up": 2, "left": 2, "right": 1}
    with pytest.raises(RuntimeError, match=message):
        ops.grid_attention(**(arguments | change))


def test_what_is_no_tensor_is_named() -> None:
    q, cache, zero = torch.zeros(1, 2, 8), torch.zeros(2, 2, 4, 8), torch.zeros(1).long()
    with pytest.raises(TypeError, match=r"ends must be a torch\.Tensor, got builtins\.list"):
        ops.window_attention(q, q, q, cache, cache, zero, zero, [1])
    with pytest.raises(TypeError, match=r"q must be a torch\.Tensor, got numpy\.ndarray"):
        ops.grid_attention(q.numpy(), q, q, cache[None], cache[None], zero, zero, zero, 4)
