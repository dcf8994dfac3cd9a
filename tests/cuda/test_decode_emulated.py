"""The CUDA kernels of a decode step, run by the host's compiler, against the CPU's to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from decode_cases import DTYPES, HEAD_DIM, HEADS, NUM_LAYERS, WIDTH, grid_case, window_case
from emulated_kernels import Pointers

from vqgan_fast import ops

NAN = float("nan")
SCHEDULES = (0, 1, 3, -1, -2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 8, 11])
def test_packed_linear(kernels, rows, dtype):
    for n, k in ((1, 1), (33, 65), (70, 200), (32, 64 * 33 + 5)):
        x, bias, residual = torch.randn(rows, k), torch.randn(n), torch.randn(rows, n)
        weight, scales, _ = packed = ops.pack_linear(torch.randn(n, k), dtype)
        for gelu in (False, True):
            y = torch.full((rows, n), NAN)
            sizes = (rows, k, weight, DTYPES.index(dtype), scales, bias, n, int(gelu))
            kernels.call("packed_linear", x, *sizes, residual, y)
            activation = "gelu" if gelu else None
            assert torch.equal(y, ops.packed_linear(x, packed, bias, activation) + residual)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_layer_norm(kernels, schedule):
    kernels.emulate(schedule=schedule)
    for c in (1, 31, 33, 100, 768):
        x, weight, bias = torch.randn(4, c), torch.randn(c), torch.randn(c)
        y = torch.full_like(x, NAN)
        kernels.call("layer_norm", x, 4, c, weight, bias, 1e-5, y)
        assert torch.equal(y, ops.layer_norm(x, weight, bias, 1e-5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_window_attention(kernels, schedule, dtype):
    kernels.emulate(schedule=schedule)
    for dim, length in ((8, 3), (40, 70), (64, 130), (136, 20)):
        q, k, v = torch.randn(3, 4, 2, dim)
        caches = [torch.randn(3, 2, length, dim).to(dtype) for _ in range(2)]
        slots, positions = torch.tensor([2, 0, 2, 1]), torch.tensor([0, length - 1, 1, 2])
        ends = torch.tensor([2, length, 3, 3])
        expected_caches = [cache.clone() for cache in caches]
        expected = ops.window_attention(q, k, v, *expected_caches, slots, positions, ends)
        y = torch.full_like(q, NAN)
        sizes = (int(dtype == torch.bfloat16), 3, length, slots, positions, ends)
        kernels.call("window_attention", q, k, v, 4, 2, dim, *caches, *sizes, y)
        assert torch.equal(y, expected)
        assert all(torch.equal(a, b) for a, b in zip(caches, expected_caches, strict=True))


def test_window_attention_of_rows_out_of_range(kernels):
    q, caches = torch.randn(4, 1, 8), [torch.randn(2, 1, 5, 8) for _ in range(2)]
    slots, positions = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 5, 1, 4])
    ends, before = torch.tensor([1, 5, 6, 5]), caches[0].clone()
    y = torch.zeros_like(q)
    kernels.call("window_attention", q, q, q, 4, 1, 8, *caches, 0, 2, 5, slots, positions, ends, y)
    assert y[:3].isnan().all() and y[3].isfinite().all()
    before[1, :, 4] = q[3]
    assert torch.equal(caches[0], before)


@pytest.mark.parametrize("window", [(3, 2, 1), (0, 4, 0), (2, 0, 3)], ids=str)
def test_grid_attention(kernels, window):
    up, left, right = window
    height, width, ring_rows, dim = 5, 6, up + 1, 16
    q, k, v = torch.randn(3, height * width, 2, dim)
    caches = [torch.full((2, 2, ring_rows, width + 1, dim), NAN) for _ in range(2)]
    expected_caches = [cache.clone() for cache in caches]
    for cell in range(height * width):
        one = slice(cell, cell + 1)
        slot, i, j = torch.tensor([1]), torch.tensor([cell // width]), torch.tensor([cell % width])
        parts = [part[one].contiguous() for part in (q, k, v)]
        expected = ops.grid_attention(*parts, *expected_caches, slot, i, j, width, *window)
        y = torch.full_like(expected, NAN)
        sizes = (2, ring_rows, width + 1, slot, i, j, width, up, left, right)
        kernels.call("grid_attention", *parts, 1, 2, dim, *caches, *sizes, y)
        assert torch.equal(y, expected)


@pytest.mark.parametrize("far", [9, 2**40, 2**63 - 1])
def test_a_grid_window_wider_than_the_grid(kernels, far):
    width, dim = 3, 8
    q = torch.randn(1, 1, dim)
    caches = [torch.randn(1, 1, 3, width, dim) for _ in range(2)]
    cell = (torch.tensor([0]), torch.tensor([4]), torch.tensor([1]))
    expected = ops.grid_attention(q, q, q, *(c.clone() for c in caches), *cell, width, 2, 2, 2)
    y = torch.full_like(q, NAN)
    sizes = (1, 3, width, *cell, width, 2, far, far)
    kernels.call("grid_attention", q, q, q, 1, 1, dim, *caches, *sizes, y)
    assert torch.equal(y, expected)


def layer_arguments(layers, rows, dtype="float32"):
    """What both launchers of all layers begin with, behind x."""
    weights, scales = layers.tensors()
    pointers = [Pointers(part) if part else None for part in (weights, scales)]
    sizes = (NUM_LAYERS, rows, HEADS, HEAD_DIM, 4 * WIDTH)
    return (*sizes, *pointers, DTYPES.index(dtype), layers.eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_layers(kernels, dtype):
    x, layers, *caches_and_cells = window_case(dtype)
    caches, where = caches_and_cells[:2], caches_and_cells[2:]
    expected_caches = [cache.clone() for cache in caches]
    expected = ops.decode_layers(x, layers, *expected_caches, *where)
    kernels.call("decode_layers", x, *layer_arguments(layers, 3, dtype), *caches, 2, 12, *where)
    assert torch.equal(x, expected)
    assert all(torch.equal(a, b) for a, b in zip(caches, expected_caches, strict=True))


def test_decode_grid_layers(kernels):
    x, layers, *caches_and_cells = grid_case()
    caches, where = caches_and_cells[:2], caches_and_cells[2:]
    expected_caches = [cache.clone() for cache in caches]
    expected = ops.decode_grid_layers(x, layers, *expected_caches, *where)
    kernels.call("decode_grid_layers", x, *layer_arguments(layers, 2), *caches, 1, 3, 6, *where)
    assert torch.equal(x, expected)
    assert all(torch.equal(a, b) for a, b in zip(caches, expected_caches, strict=True))


RULES = {
    "plain": {},
    "greedy": {"greedy": True},
    "top-k": {"temperature": 0.7, "top_k": 9},
    "top-p": {"top_p": 0.6},
    "all": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    "guided": {"top_k": 9, "guidance": 2.0},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sample_logits(kernels, schedule, rule):
    kernels.emulate(schedule=schedule)
    options = dict(RULES[rule])
    for logits in (3 * torch.randn(5, 300), torch.randn(4, 300).round(), torch.zeros(3, 30)):
        rows, codes = logits.shape
        logits[:, codes // 2 :: 5] = -math.inf
        uncond = torch.randn(rows, codes) if "guidance" in options else None
        seeds, cells = torch.randint(2**62, (rows,)), torch.randint(2**32, (rows,))
        expected = ops.sample_logits(logits, seeds, cells, uncond_logits=uncond, **options)
        found = run_sample(kernels, logits, seeds, cells, uncond, **options)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_masses_of_nearly_equal_codes_are_added_whole(kernels):
    # Their low 32 bits are all near 2^32: in a sum without carries the cut is too far by 1 in 256.
    rows, codes = 700, 300
    logits = torch.randn(1, codes).expand(rows, codes).contiguous()
    seeds, cells = torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
    options = {"temperature": 1e4, "top_p": 0.5}
    expected = ops.sample_logits(logits, seeds, cells, **options)
    found = run_sample(kernels, logits, seeds, cells, **options)
    assert torch.equal(found[0], expected[0])


def run_sample(kernels, logits, seeds, cells, uncond=None, guidance=1.0, **options):
    rows, codes = logits.shape
    drawn, logprobs = torch.full((rows,), -77), torch.full((rows,), 77.0)
    min_p = options.get("min_p")
    kernels.call(
        "sample_logits",
        *(logits, uncond, rows, codes, seeds, cells, guidance),
        0.0 if options.get("greedy") else options.get("temperature", 1.0),
        options.get("top_k", 0),
        options.get("top_p", 1.0),
        -math.inf if min_p is None else math.log(min_p),
        drawn,
        logprobs,
    )
    return drawn, logprobs


def test_sample_logits_of_rows_that_cannot_be_drawn_from(kernels):
    logits = torch.randn(4, 40)
    logits[0, 3], logits[1, 7], logits[2] = NAN, math.inf, -math.inf
    codes, logprobs = run_sample(kernels, logits, torch.arange(4), torch.arange(4), top_k=3)
    assert codes[:3].tolist() == [-1, -1, -1] and codes[3] >= 0
    assert logprobs[:3].isnan().all() and logprobs[3].isfinite()
