"""Every way that nearest_code goes on a GPU, forced by VQGAN_FAST_CUDA_SEARCH."""

from __future__ import annotations

import pytest
import torch
from ring_cases import RING_CASES
from search_cases import CASES, assert_is_oracle

from vqgan_fast import ops
from vqgan_fast._library import CUDA_LIBRARY, load_libraries

DEVICE = "cuda"
STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
    pytest.mark.usefixtures("poisoned", "fresh_inputs"),
]
WAYS = pytest.mark.parametrize("way", ["auto", "exact", "direct", "mma", "wgmma"])


@pytest.fixture
def go(monkeypatch):
    """Searches a way; where the GPU cannot go it, the op takes its own."""

    def search(way, z, codebook, **options):
        monkeypatch.setenv("VQGAN_FAST_CUDA_SEARCH", way)
        return tuple(
            t.cpu() for t in ops.nearest_code(z.to(DEVICE), codebook.to(DEVICE), **options)
        )

    return search


def assert_same(found, expected):
    """Says of wrong indices that they are: benchmarks/gpu_check.sh goes by that."""
    wrong = (found[0] != expected[0]).sum().item()
    assert wrong == 0, f"{wrong} of {expected[0].numel()} indices differ"
    assert torch.equal(found[1], expected[1])


@WAYS
@pytest.mark.parametrize("d", [8, 64, 256])
def test_the_way_is_gone(monkeypatch, way, d):
    """A library without a GPU's kernels finds the same codes in another way."""
    monkeypatch.setenv("VQGAN_FAST_CUDA_SEARCH", way)
    z, codebook = torch.randn(8192, d, device=DEVICE), torch.randn(8192, d, device=DEVICE)
    gone = torch.ops.vqgan_fast._nearest_code_way(z, codebook)
    capability = torch.cuda.get_device_capability()
    best = "wgmma" if capability == (9, 0) else "mma" if capability >= (8, 0) else "direct"
    possible = ["exact", "direct", "mma", "wgmma"][: 2 + (best != "direct") + (best == "wgmma")]
    assert ["exact", "direct", "mma", "wgmma"][gone] == (way if way in possible else best)


@WAYS
@pytest.mark.parametrize("case", CASES)
def test_where_it_goes_wrong_easily(go, case, way):
    for n, k, d in ((300, 700, 6), (300, 500, 48), (200, 300, 256)):
        z, codebook = CASES[case](n, k, d)
        assert_is_oracle(z, codebook, go(way, z, codebook))


@WAYS
@pytest.mark.parametrize(
    "d", [1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33, 64, 100, 129, 256, 257, 512, 1024]
)
def test_every_number_of_columns(go, d, way):
    for n, k in ((1, 130), (257, 129), (130, 513)):
        z, codebook = CASES["near_ties"](n, k, d)
        assert_is_oracle(z, codebook, go(way, z, codebook))


@WAYS
def test_many_rows_against_the_cpu(go, way):
    for n, k, d in ((70_000, 1024, 8), (20_000, 3000, 64), (10_000, 2048, 256)):
        z, codebook = torch.randn(n, d), torch.randn(k, d)
        assert_same(go(way, z, codebook), ops.nearest_code(z, codebook))


@WAYS
def test_every_pair_of_dtypes(go, way):
    halves = (torch.float32, torch.bfloat16, torch.float16)
    for z_dtype in halves:
        for codebook_dtype in halves:
            z, codebook = CASES["near_ties"](300, 400, 40)
            z, codebook = z.to(z_dtype), codebook.to(codebook_dtype)
            assert_is_oracle(z, codebook, go(way, z, codebook))


@WAYS
def test_strided_rows_are_read_in_place(go, way):
    z = torch.randn(3, 40, 16, 15, device=DEVICE).movedim(1, -1)
    codebook = torch.randn(80, 300, device=DEVICE).t()[:, ::2]
    assert_is_oracle(z.cpu(), codebook.cpu(), go(way, z, codebook))


@WAYS
def test_more_rows_than_are_searched_at_a_time(go, way):
    z, codebook = CASES["near_ties"](2**18 + 300, 200, 4)
    assert_same(go(way, z, codebook), ops.nearest_code(z, codebook))


@WAYS
def test_a_thousand_repeats_are_equal(go, way, monkeypatch):
    z, codebook = (t.to(DEVICE) for t in CASES["near_ties"](3000, 1000, 64))
    first = go(way, z, codebook)
    for _ in range(1000 if way != "exact" else 50):
        assert_same([t.cpu() for t in ops.nearest_code(z, codebook)], first)


@WAYS
def test_no_wait_for_the_gpu(go, way, monkeypatch):
    """A wait cannot be captured in a CUDA graph."""
    z, codebook = (t.to(DEVICE) for t in CASES["near_ties"](5000, 3000, 64))
    expected = go(way, z, codebook)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.nearest_code(z, codebook)
    for tensor in captured:
        tensor.fill_(-1)
    graph.replay()
    for got, wanted in zip(captured, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)


@WAYS
def test_fast_finds_what_no_rounding_decides(go, way):
    z, codebook = torch.randn(3000, 64), torch.randn(500, 64)
    found = go(way, z, codebook, precision="fast")
    exact = go(way, z, codebook)
    assert (found[0] != exact[0]).float().mean() < 0.01
    assert (found[1] <= exact[1] * 1.01).all()


@pytest.mark.parametrize("way", ["mma", "wgmma"])
@pytest.mark.parametrize(("n", "k", "d"), RING_CASES)
def test_rings_that_wrap(go, way, n, k, d):
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    assert_same(go(way, z, codebook), ops.nearest_code(z, codebook))


def test_an_unknown_way_is_named(go):
    with pytest.raises(RuntimeError, match="VQGAN_FAST_CUDA_SEARCH must be auto, exact, direct"):
        go("cublas", torch.randn(3, 4), torch.randn(5, 4))


def test_a_large_codebook_takes_less_than_a_gigabyte(go, monkeypatch):
    z, codebook = torch.randn(65536, 64, device=DEVICE), torch.randn(262144, 64, device=DEVICE)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ops.nearest_code(z, codebook)
    assert torch.cuda.max_memory_allocated() - before < 1 << 30
