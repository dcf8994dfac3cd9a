"""The ops of a decode step on an NVIDIA GPU: the CPU's results to the bit, without ever waiting."""

from __future__ import annotations

import math

import pytest
import torch
from decode_cases import DTYPES, grid_case, window_case

from vqgan_fast import ops
from vqgan_fast._library import CUDA_LIBRARY, load_libraries

DEVICE = "cuda"
STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
    pytest.mark.usefixtures("poisoned", "fresh_inputs"),
]


def on_gpu(values):
    """The same value, or tuple of values (tensors, packed weights, options), on the GPU."""
    if isinstance(values, torch.Tensor):
        return values.to(DEVICE)
    if isinstance(values, tuple):
        moved = [on_gpu(value) for value in values]
        return type(values)(*moved) if hasattr(values, "_fields") else tuple(moved)
    return values


def assert_like_cpu(op, *arguments):
    """Results, and what the op changed in place."""
    moved = on_gpu(arguments)
    got, expected = op(*moved), op(*arguments)
    if isinstance(expected, torch.Tensor):
        got, expected = (got,), (expected,)
    for one, other in ((got, expected), (moved, arguments)):
        for a, b in zip(one, other, strict=True):
            if isinstance(b, torch.Tensor):
                assert a.is_cuda and a.dtype == b.dtype and torch.equal(a.cpu(), b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 8, 77])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (70, 200), (1024, 1024), (100, 64 * 70 + 5)])
def test_packed_linear(rows, dtype, n, k):
    packed = ops.pack_linear(torch.randn(n, k), dtype)
    for bias in (None, torch.randn(n)):
        for activation in (None, "gelu"):
            assert_like_cpu(ops.packed_linear, torch.randn(rows, k), packed, bias, activation)


@pytest.mark.parametrize("c", [1, 31, 768, 1664])
def test_layer_norm(c):
    assert_like_cpu(ops.layer_norm, 100 * torch.randn(50, c), torch.randn(c), torch.randn(c), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("dim", "length"), [(8, 5), (64, 1025), (104, 300)])
def test_window_attention(dtype, dim, length):
    q, k, v = 3 * torch.randn(3, 6, 4, dim)
    caches = torch.randn(2, 5, 4, length, dim).to(dtype).unbind()
    slots, positions = torch.tensor([4, 0, 4, 1, 2, 4]), torch.tensor([0, 4, 1, 2, 3, 2])
    ends = torch.tensor([1, length, 2, 3, 4, 3])
    assert_like_cpu(ops.window_attention, q, k, v, *caches, slots, positions, ends)


@pytest.mark.parametrize("window", [(3, 2, 1), (0, 4, 0), (8, 8, 7), (2, 100, 100)], ids=str)
def test_grid_attention(window):
    width, dim, cells = 20, 64, torch.arange(30)
    q, k, v = torch.randn(3, 30, 3, dim)
    caches = torch.randn(2, 2, 3, window[0] + 1, width + 3, dim).unbind()
    where = (cells // width, cells // width, cells % width)
    assert_like_cpu(ops.grid_attention, q, k, v, *caches, *where, width, *window)


@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_layers(dtype):
    assert_like_cpu(ops.decode_layers, *window_case(dtype))


def test_decode_grid_layers():
    assert_like_cpu(ops.decode_grid_layers, *grid_case())


@pytest.mark.parametrize("codes", [1, 300, 16384])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"greedy": True},
        {"temperature": 0.7, "top_k": 1},
        {"top_p": 0.6},
        {"temperature": 1.3, "top_k": 250, "top_p": 0.9, "min_p": 0.05, "guidance": 2.0},
    ],
    ids=str,
)
def test_sample_logits(codes, options):
    options = dict(options)
    options["top_k"] = min(options["top_k"], codes) if "top_k" in options else None

    def draw(logits, seeds, cells, uncond):
        return ops.sample_logits(logits, seeds, cells, uncond_logits=uncond, **options)

    for logits in (3 * torch.randn(9, codes), torch.randn(9, codes).round()):
        logits[:, codes // 2 + 1 :: 5] = -math.inf
        uncond = torch.randn(9, codes) if "guidance" in options else None
        assert_like_cpu(
            draw, logits, torch.randint(2**62, (9,)), torch.randint(2**32, (9,)), uncond
        )


def test_no_rows():
    weight = ops.pack_linear(torch.randn(5, 8))
    nothing = torch.zeros(0, dtype=torch.int64)
    assert_like_cpu(ops.packed_linear, torch.zeros(0, 8), weight)
    assert_like_cpu(ops.layer_norm, torch.zeros(0, 8), torch.ones(8), torch.ones(8), 1e-5)
    assert_like_cpu(ops.sample_logits, torch.zeros(0, 8), nothing, nothing)
    q, caches = torch.zeros(0, 1, 8), torch.zeros(2, 1, 1, 4, 8).unbind()
    assert_like_cpu(ops.window_attention, q, q, q, *caches, nothing, nothing, nothing)


def test_rows_out_of_range_are_nan_and_write_nothing():
    q, caches = torch.randn(4, 1, 8, device=DEVICE), torch.randn(2, 2, 1, 5, 8, device=DEVICE)
    numbers = ([2, 0, 1, 1], [0, 5, 1, 4], [1, 5, 6, 5])
    slots, positions, ends = (torch.tensor(n, device=DEVICE) for n in numbers)
    expected = caches.clone()
    expected[:, 1, :, 4] = q[3]
    y = ops.window_attention(q, q, q, *caches, slots, positions, ends)
    assert y[:3].isnan().all() and y[3].isfinite().all()
    assert torch.equal(caches, expected)


def test_rows_that_cannot_be_drawn_from_have_code_minus_one():
    logits = torch.randn(4, 40)
    logits[0, 3], logits[1, 7], logits[2] = math.nan, math.inf, -math.inf
    numbers = torch.arange(4, device=DEVICE)
    codes, logprobs = ops.sample_logits(logits.to(DEVICE), numbers, numbers, top_k=3)
    assert codes[:3].tolist() == [-1, -1, -1] and codes[3] >= 0
    assert logprobs[:3].isnan().all() and logprobs[3].isfinite()


def test_a_step_is_captured_in_a_graph():
    """A wait for the GPU cannot be captured."""
    x, *rest = on_gpu(window_case("bfloat16"))
    seeds = torch.arange(len(x), device=DEVICE)

    def step():
        y = ops.decode_layers(x, *rest)
        return (y, *ops.sample_logits(y, seeds, seeds, top_k=9, top_p=0.9))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(x.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, step(), strict=True):
        assert torch.equal(got, expected)


def test_runs_in_the_current_stream():
    x, weight = torch.randn(3, 64), ops.pack_linear(torch.randn(40, 64))
    late, moved = torch.zeros_like(x, device=DEVICE), on_gpu(weight)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # x comes late, in this stream only
        late.copy_(x.pin_memory(), non_blocking=True)
        found = ops.packed_linear(late, moved)
    stream.synchronize()
    assert torch.equal(found.cpu(), ops.packed_linear(x, weight))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_runs_on_the_device_of_its_inputs():
    x = torch.randn(3, 64)
    with torch.cuda.device(0):
        found = ops.layer_norm(x.to("cuda:1"), *torch.ones(2, 64, device="cuda:1"), 1e-5)
    assert found.device.index == 1
    assert torch.equal(found.cpu(), ops.layer_norm(x, *torch.ones(2, 64), 1e-5))
