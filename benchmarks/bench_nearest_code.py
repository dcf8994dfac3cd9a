"""`nearest_code` beside torch, faiss, scikit-learn and vector-quantize-pytorch.

Without --full: the shapes of CHOSEN. With it: all of N x K x D, and the largest codebook.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import contenders
import fp64_judge
import machine
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from rotation import Contender
from torch import Tensor
from torch_searches import addmm_argmin

from vqgan_fast import ops

ROWS, CODES = (1, 256, 4096, 32768), (1024, 8192, 16384)
DIMS = (3, 4, 8, 16, 32, 64, 128, 256)
LARGEST = [(4096, 262144, d) for d in (4, 8, 32)]
FULL = [*itertools.product(ROWS, CODES, DIMS), *LARGEST]
CHOSEN = [
    (1, 16384, 256),
    (256, 1024, 256),
    (256, 8192, 32),
    (4096, 1024, 8),
    (4096, 1024, 256),
    *((4096, 8192, d) for d in (4, 8, 16, 32, 64, 256)),
    (4096, 16384, 8),
    (32768, 8192, 4),
    (4096, 262144, 8),
]
# Multiply-adds that the check before each timing may take.
CHECKED = 4e9


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shape" in metafunc.fixturenames:
        shapes = FULL if metafunc.config.getoption("--full") else CHOSEN
        metafunc.parametrize("shape", shapes, ids=["x".join(map(str, s)) for s in shapes])


def assert_nearest(z: Tensor, codebook: Tensor, indices: Tensor) -> Tensor:
    """That as many rows as CHECKED allows have the definition's code; returns which rows."""
    allowed = max(16, int(CHECKED / codebook.numel()))
    rows = torch.arange(0, len(z), max(1, -(-len(z) // allowed)))
    expected, _ = fp64_judge.nearest(z[rows], codebook)
    assert torch.equal(indices[rows], expected)
    return rows


def differing(peers: dict[str, Contender], indices: Tensor, rows: Tensor) -> dict[str, float]:
    """For each peer, the rows in a million for which it finds another code."""
    shares = {}
    for name, peer in peers.items():
        found = peer.call()
        if found is not None:
            shares[name] = 1e6 * (found[rows] != indices[rows]).double().mean().item()
    return shares


def gflop(n: int, k: int, d: int) -> float:
    return 2e-9 * n * k * d


def test_gaussian(shape: tuple[int, int, int], threads: int, compare: Callable) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    indices = ops.nearest_code(z, codebook, return_distance=False)
    rows = assert_nearest(z, codebook, indices)
    peers, left_out = contenders.peers(z, codebook)
    wrong = differing(peers, indices, rows)
    assert all(share < 1e4 for share in wrong.values()), wrong
    # A step of training changes the codebook: what is kept from the last search is of no use then.
    changing = codebook.clone()
    variants: dict[str, object] = {
        "new codebook": Contender(
            lambda: ops.nearest_code(z, changing), prepare=lambda: changing[0].normal_()
        )
    }
    compare(
        "nearest_code",
        shape,
        lambda: ops.nearest_code(z, codebook),
        peers=peers,
        variants=variants,
        gflop=gflop(*shape),
        left_out=left_out,
        differing_per_million=wrong,
    )


@pytest.mark.parametrize("n", [4096, 32768])
@pytest.mark.parametrize("d", [4, 8, 32, 64, 256])
def test_all_threads_beside_one(n: int, d: int, compare: Callable) -> None:
    """One call on one thread and on all, in the same rounds, one right after the other.

    No other library's threads are about, and a CPU that fell asleep takes long to wake in a virtual
    machine.
    """
    torch.manual_seed(0)
    k, all_threads = 8192, machine.all_threads()
    if all_threads == 1:
        pytest.skip("this process has one CPU")
    z, codebook = torch.randn(n, d), torch.randn(k, d)

    def search(threads: int) -> Contender:
        return Contender(
            lambda: ops.nearest_code(z, codebook), lambda: torch.set_num_threads(threads), pause=0.0
        )

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(all_threads)
        variants = {"1 thread": search(1)}
        case = "nearest_code, all threads"
        compare(case, (n, k, d), search(all_threads), peers={}, variants=variants)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["images", "bf16"])
def test_as_a_model_has_it(layout: str, threads: int, compare: Callable) -> None:
    """Latents of 16 images read in place, and in bf16 against an fp32 codebook."""
    torch.manual_seed(0)
    images, codebook = torch.randn(16, 256, 16, 16), torch.randn(1024, 256)
    z = images.movedim(1, -1) if layout == "images" else torch.randn(4096, 256).bfloat16()
    flat = z.reshape(-1, 256).float()
    assert_nearest(flat, codebook, ops.nearest_code(z, codebook, return_distance=False).flatten())

    def copied() -> Tensor:
        return addmm_argmin(z.reshape(-1, 256).float(), codebook)

    compare(
        f"nearest_code of {layout}",
        (4096, 1024, 256),
        lambda: ops.nearest_code(z, codebook),
        peers={"copied, addmm+argmin": copied},
        variants={"contiguous fp32": lambda: ops.nearest_code(flat, codebook)},
        gflop=gflop(4096, 1024, 256),
        dtype="bf16" if layout == "bf16" else "fp32",
    )


def hard_data(n: int, k: int, d: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Where fp32 scores decide less: an offset that dwarfs the spread, tight clusters, many small
    ones or few large ones, a codebook as VQGAN initialises it, one that is hardly used, norms of
    many orders, heavy tails, latents between two codes, codes that only fp64 tells apart, and equal
    ones."""
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    data = {f"offset {by}": (z + by, codebook + by) for by in (100, 1000)}
    centres = torch.randn(64, d)
    for width in (1e-2, 1e-3, 1e-4):
        data[f"clusters {width:g}"] = (
            centres[torch.randint(64, (n,))] + width * z,
            centres[torch.randint(64, (k,))] + width * codebook,
        )
    for count in (16, 3):
        at = [torch.randint(count, (m,)) for m in (n, k)]
        pair = (centres[at[0]] + 1e-4 * z, centres[at[1]] + 1e-4 * codebook)
        data[f"{count} clusters 0.0001"] = pair
    unused = torch.where(torch.rand(k, 1) < 0.9, codebook / k, codebook)
    data["90 % unused"] = (unused[torch.randint(k, (n,))] * (1 + 0.1 * z), unused)
    norms = codebook * 10 ** (6 * torch.rand(k, 1) - 3)
    data["norms of six orders"] = (norms[torch.randint(k, (n,))] + 1e-2 * z, norms)
    tails = torch.distributions.StudentT(1.5)
    data["heavy tails"] = (tails.sample((n, d)), tails.sample((k, d)))
    data["VQGAN's init"] = (z, torch.empty(k, d).uniform_(-1 / k, 1 / k))
    pairs = torch.randint(k, (2, n))
    data["near-ties"] = ((codebook[pairs[0]] + codebook[pairs[1]]) / 2, codebook)
    data["collapsed"] = (z, torch.randn(d) * (1 + 3e-7 * codebook))
    data["each code 20 times"] = (z, codebook[torch.randint(k // 20, (k,))])
    data["zeros"] = (z, torch.zeros(k, d))
    return data


WRONG_SOMETIMES = ("reference", "addmm+argmin", "cdist+argmin", "faiss", "scikit-learn")


@pytest.mark.parametrize("d", [4, 8, 64, 256])
def test_hard_data(d: int, threads: int, compare: Callable) -> None:
    """Each kind of data as a multiple of the time that Gaussian data of its shape takes."""
    n, k = 4096, 8192
    torch.manual_seed(0)
    data = hard_data(n, k, d)
    wrong: dict[str, dict[str, float]] = {}
    for kind, (z, codebook) in data.items():
        indices = ops.nearest_code(z, codebook, return_distance=False)
        rows = assert_nearest(z, codebook, indices)
        peers, _ = contenders.peers(z, codebook)
        peers = {name: peer for name, peer in peers.items() if name in WRONG_SOMETIMES}
        for name, share in differing(peers, indices, rows).items():
            wrong.setdefault(name, {})[kind] = share
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    figures = compare(
        "nearest_code, hard data",
        (n, k, d),
        lambda: ops.nearest_code(z, codebook),
        peers={},
        variants={name: lambda pair=pair: ops.nearest_code(*pair) for name, pair in data.items()},
        gflop=gflop(n, k, d),
        # The same for any number of threads.
        **({"differing_per_million": wrong} if threads == 1 else {}),
    )
    assert set(figures["ratios"]) == set(data)


MEMORY_OF = ["nearest_code", "reference", "addmm+argmin", "mm alone", "faiss", "vq-pytorch"]


@pytest.mark.parametrize("search", MEMORY_OF)
def test_peak_memory(
    search: str, benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture
) -> None:
    """What a search holds at its peak beyond inputs and results, each in a process of its own."""
    if not contenders.is_installed(search):
        pytest.skip(f"{search} is not installed")
    script = Path(__file__).with_name("peak_memory.py")
    sizes = (4096, 8192, 64)

    def measure() -> dict[str, int]:
        command = [sys.executable, str(script), "--search", search, *map(str, sizes)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(output)

    measured = benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(case="memory", search=search, shape=list(sizes), **measured)
    with capsys.disabled():
        print(
            f"\n{search} {' x '.join(map(str, sizes))}: {measured['extra'] / 2**20:.1f} MiB at the "
            f"peak beyond what it returns, the codebook has {measured['codebook'] / 2**20:.1f} MiB",
            end="",
        )
