"""The ops on an NVIDIA GPU: the CPU's results to the bit, without ever waiting for the GPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import CASES, DIMS, DTYPES, assert_is_oracle

from vqgan_fast import ops
from vqgan_fast._library import CUDA_LIBRARY, load_libraries

DEVICE = "cuda"
STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
    pytest.mark.usefixtures("poisoned", "fresh_inputs"),
]


def on_gpu(*tensors):
    """The same tensors on the GPU, with the same strides."""
    return [
        torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=DEVICE).copy_(t)
        for t in tensors
    ]


def assert_search_is_oracle(z, codebook, **options):
    found = ops.nearest_code(*on_gpu(z, codebook), **options)
    assert_is_oracle(z, codebook, tuple(t.cpu() for t in found))


def assert_equal(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert torch.equal(got.cpu().nan_to_num(-1), expected.nan_to_num(-1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("n", "k", "d"), [(150, 300, 5), (150, 200, 32), (5000, 1000, 67)])
def test_index_and_distance_are_the_oracles(case, n, k, d):
    assert_search_is_oracle(*CASES[case](n, k, d))


@pytest.mark.parametrize("d", DIMS)
def test_every_dimension(d):
    for k, n in ((1, 9), (2, 7), (63, 97), (64, 64), (65, 130), (1000, 3)):
        assert_search_is_oracle(*CASES["near_ties"](n, k, d))


@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
@pytest.mark.parametrize("case", ["near_ties", "not_finite"])
def test_types_and_their_mixtures(dtypes, case):
    z, codebook = CASES[case](60, 90, 12)
    assert_search_is_oracle(z.to(dtypes[0]), codebook.to(dtypes[1]))


def test_fast_finds_what_no_rounding_decides():
    torch.manual_seed(0)  # of fresh rows, rounding decides one in some ten thousand
    assert_search_is_oracle(*CASES["gaussian"](300, 400, 16), precision="fast")
    assert_search_is_oracle(*CASES["not_finite"](30, 40, 6), precision="fast")


def layouts():
    images = torch.randn(3, 12, 4, 5)
    return {
        "contiguous": torch.randn(40, 12),
        "images": images.movedim(1, -1),
        "channels last": images.to(memory_format=torch.channels_last).movedim(1, -1),
        "transposed": torch.randn(12, 40).T,
        "three levels": torch.randn(4, 5, 6, 12).permute(1, 0, 2, 3),
        "no rows": torch.randn(0, 12),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", layouts())
def test_vector_quantize_and_its_backward_are_the_cpus(layout, dtype):
    z, codebook = layouts()[layout].to(dtype), torch.randn(50, 12).to(dtype)
    results = []
    for inputs in ((z, codebook), on_gpu(z, codebook)):
        x, e = (t.detach().requires_grad_() for t in inputs)
        z_q, indices, commitment, codebook_loss = ops.vector_quantize(x, e)
        weight = torch.linspace(-1, 1, z.numel()).view(z.shape).to(z_q)
        (((z_q * weight).sum() + 0.3 * commitment) + 0.7 * codebook_loss).backward()
        assert z_q.stride() == x.stride() or z_q.numel() == 0
        results.append((z_q.detach(), indices, x.grad, e.grad, commitment.detach()))
    for got, expected in zip(results[1][:4], results[0][:4], strict=True):
        assert_equal(got, expected)
    # The two sum distances in another order.
    torch.testing.assert_close(
        results[1][4].cpu(), results[0][4], rtol=1e-6, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_many_rows_of_a_code(dtype):
    """A code's warp has more rows than are on their way at a time, and several parts of columns."""
    z, codebook = torch.randn(3000, 200).to(dtype), torch.randn(70, 200).to(dtype)
    indices = torch.randint(3, 70, (3000,))  # and codes without a row
    indices[::3] = 69
    scalar_type = torch.float64 if dtype == torch.float64 else torch.float32
    grads = (
        torch.randn(3000, 200).to(dtype),
        *(torch.tensor(x, dtype=scalar_type) for x in (0.3, 0.7)),
    )
    backward = torch.ops.vqgan_fast.vector_quantize_backward
    got = backward(*on_gpu(*grads, z, codebook, indices), True, True)
    for one, other in zip(got, backward(*grads, z, codebook, indices, True, True), strict=True):
        assert_equal(one, other)


def test_a_codebook_for_each_head():
    z = torch.randn(2, 40, 3, 8).transpose(1, 2)
    codebook = torch.randn(2, 3, 50, 8)
    got = ops.vector_quantize(*on_gpu(z, codebook))
    expected = ops.vector_quantize(z, codebook)
    assert_equal(got[0], expected[0])
    assert_equal(got[1], expected[1])
    torch.testing.assert_close(got[2].cpu(), expected[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "d"), [(0, 5, 3), (7, 1, 1), (5000, 300, 33), (500, 70000, 4)])
def test_codebook_stats_are_the_cpus(n, k, d, dtype):
    z, indices = torch.randn(n, d).to(dtype), torch.randint(k, (n,))
    indices[::3] = k - 1
    for got, expected in zip(
        ops.codebook_stats(*on_gpu(z, indices), k), ops.codebook_stats(z, indices, k), strict=True
    ):
        assert_equal(got, expected)


def test_an_index_outside_the_codebook_shows_as_nan():
    z, indices = torch.randn(10, 3, device=DEVICE), torch.arange(10, device=DEVICE)
    assert ops.codebook_stats(z, indices, 9)[1].isnan().all()


@pytest.mark.parametrize("repeat", range(3))
def test_results_are_the_same_every_time(repeat):
    z, codebook = on_gpu(*CASES["gaussian"](30000, 512, 16))
    first = ops.vector_quantize(z, codebook)
    second = ops.vector_quantize(z, codebook)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_bad_input_is_named():
    z = torch.zeros(5, 8, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"codebook must be \(K, D\) with D = 8, got \(7, 3\)"):
        ops.nearest_code(z, torch.zeros(7, 3, device=DEVICE))
    with pytest.raises(RuntimeError, match="codebook must be on cuda:0 like z, got cpu"):
        ops.nearest_code(z, torch.zeros(7, 8))
    with pytest.raises(RuntimeError, match="indices must be int64"):
        ops.codebook_stats(z, torch.zeros(5, dtype=torch.int32, device=DEVICE), 4)


def test_runs_in_the_current_stream():
    z, codebook = CASES["gaussian"](3000, 500, 8)
    late_z, late_codebook = (torch.zeros_like(t, device=DEVICE) for t in (z, codebook))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the inputs come late, in this stream only
        late_z.copy_(z.pin_memory(), non_blocking=True)
        late_codebook.copy_(codebook.pin_memory(), non_blocking=True)
        found = ops.nearest_code(late_z, late_codebook)
    stream.synchronize()
    assert_is_oracle(z, codebook, tuple(t.cpu() for t in found))


def test_never_waits_for_the_gpu():
    """A wait cannot be captured in a CUDA graph."""
    z, codebook = on_gpu(*CASES["gaussian"](300, 64, 8))
    x, e = z.clone().requires_grad_(), codebook.clone().requires_grad_()

    def step():
        z_q, indices, commitment, codebook_loss = ops.vector_quantize(x, e)
        loss = z_q.sum() + commitment + codebook_loss
        return (
            indices,
            ops.codebook_stats(x.detach(), indices, 64)[0],
            *torch.autograd.grad(loss, (x, e)),
        )

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(z.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, step(), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_runs_on_the_device_of_its_inputs():
    z, codebook = CASES["gaussian"](100, 50, 8)
    with torch.cuda.device(0):
        found = ops.nearest_code(z.to("cuda:1"), codebook.to("cuda:1"))
    assert found[0].device.index == 1
    assert_is_oracle(z, codebook, tuple(t.cpu() for t in found))


def test_more_distances_than_32_bits_count():
    z, codebook = CASES["gaussian"](70_000, 40_000, 2)
    got = ops.nearest_code(*on_gpu(z, codebook))
    rows = torch.cat([torch.arange(100), torch.arange(69_900, 70_000)])
    assert_is_oracle(z[rows], codebook, tuple(t.cpu()[rows] for t in got))


def test_more_elements_than_32_bits_count():
    num_rows, dim = 2**31 // 64 + 1000, 64
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs 8 GB of free GPU memory")
    z = torch.zeros(num_rows, dim, dtype=torch.bfloat16, device=DEVICE)
    tail = torch.randn(500, dim).bfloat16()
    z[-500:] = tail.to(DEVICE)
    codebook = torch.randn(8, dim)
    indices, distances = ops.nearest_code(z, codebook.to(DEVICE))
    assert_is_oracle(tail, codebook, (indices[-500:].cpu(), distances[-500:].cpu()))


def test_memory_is_at_most_twice_the_codebooks():
    n, k, d = 16384, 16384, 64
    z, codebook = (torch.randn(size, d, device=DEVICE, requires_grad=True) for size in (n, k))
    weight = torch.randn(n, d, device=DEVICE)

    def step():
        z_q, _, commitment, codebook_loss = ops.vector_quantize(z, codebook)
        z_q.backward(weight, retain_graph=True)
        (commitment + codebook_loss).backward()

    step()
    z.grad = codebook.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    results = 4 * (3 * n * d + 2 * k * d) + 8 * n  # z_q, two gradients of each kind, indices
    beyond = torch.cuda.max_memory_allocated() - before - results
    assert beyond <= 2 * 4 * k * d, f"{beyond / 1e6:.1f} MB beyond results"


def test_opcheck_and_compile():
    z, codebook = on_gpu(*CASES["gaussian"](30, 20, 8))
    # Its fourth test adds up all outputs, integers first, which fails where gradients are needed.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for needs_grad, which in ((False, (*tests, "test_aot_dispatch_dynamic")), (True, tests)):
        inputs = [t.clone().requires_grad_(needs_grad) for t in (z, codebook)]
        for op in (torch.ops.vqgan_fast.nearest_code, torch.ops.vqgan_fast.vector_quantize):
            torch.library.opcheck(op.default, (*inputs, True), test_utils=which)
    compiled = torch.compile(ops.vector_quantize, fullgraph=True)
    for got, expected in zip(compiled(z, codebook), ops.vector_quantize(z, codebook), strict=True):
        assert torch.equal(got, expected)
