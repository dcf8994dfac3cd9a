"""`codebook_stats` and the gradient of the codebook, which are sums of the rows of each code.

Beside bincount with index_add, and the product with one-hot rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops

SHAPES = [
    (16384, 1024, 256),
    (16384, 16384, 64),
    (2048, 16384, 256),
    (4096, 8192, 32),
    (4096, 16384, 4),
    (32768, 262144, 16),
    (65536, 1024, 8),
]


def make_rows(shape: tuple[int, int, int], layout: str, used: str) -> tuple[Tensor, Tensor]:
    n, k, d = shape
    torch.manual_seed(0)
    z = torch.randn(n, d) if layout == "rows" else torch.randn(n // 256, d, 256).movedim(1, -1)
    return z, torch.randint(k if used == "all codes" else 1, z.shape[:-1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["rows", "images"])
@pytest.mark.parametrize("used", ["all codes", "one code"])
def test_stats(
    shape: tuple[int, int, int], layout: str, used: str, threads: int, compare: Callable
) -> None:
    n, k, d = shape
    z, indices = make_rows(shape, layout, used)

    def index_add() -> tuple[Tensor, Tensor]:
        flat = indices.reshape(-1)
        sums = torch.zeros(k, d).index_add_(0, flat, z.reshape(-1, d))
        return torch.bincount(flat, minlength=k), sums

    def one_hot() -> tuple[Tensor, Tensor]:
        rows = torch.nn.functional.one_hot(indices.reshape(-1), k).float()
        return rows.sum(0), rows.t() @ z.reshape(-1, d)

    counts, sums = ops.codebook_stats(z, indices, k)
    expected = index_add()
    assert torch.equal(counts, expected[0])
    torch.testing.assert_close(sums, expected[1], rtol=1e-3, atol=1e-2)
    peers = {"bincount+index_add": index_add}
    if k <= 1024:
        peers["one-hot product"] = one_hot
    compare(
        f"codebook_stats of {layout}, {used}",
        shape,
        lambda: ops.codebook_stats(z, indices, k),
        peers=peers,
        gigabytes=4e-9 * n * d,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["rows", "images"])
def test_gradient_of_the_codebook(
    shape: tuple[int, int, int], layout: str, threads: int, compare: Callable
) -> None:
    n, k, d = shape
    z, indices = make_rows(shape, layout, "all codes")
    codebook, flat = torch.randn(k, d), indices.reshape(-1)
    zero, one, scale = torch.zeros(()), torch.ones(()), 2.0 / z.numel()

    def ours() -> Tensor:
        backward = torch.ops.vqgan_fast.vector_quantize_backward
        return backward(None, zero, one, z, codebook, indices, False, True)[1]

    def differences() -> Tensor:
        rows = (codebook[flat] - z.reshape(-1, d)) * scale
        return torch.zeros(k, d).index_add_(0, flat, rows)

    def sums() -> Tensor:
        counts = torch.bincount(flat, minlength=k)[:, None]
        return (codebook * counts - torch.zeros(k, d).index_add_(0, flat, z.reshape(-1, d))) * scale

    torch.testing.assert_close(ours(), differences(), rtol=1e-3, atol=1e-6)
    compare(
        f"gradient of the codebook of {layout}",
        shape,
        ours,
        peers={"index_add of differences": differences, "index_add of rows": sums},
        gigabytes=4e-9 * (n + k) * d,
    )
