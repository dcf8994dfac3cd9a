"""`codebook_stats` beside bincount with index_add, and the product with one-hot rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vqgan_fast import ops


@pytest.mark.parametrize("shape", [(16384, 1024, 256), (16384, 16384, 64)], ids=str)
@pytest.mark.parametrize("layout", ["rows", "images"])
@pytest.mark.parametrize("used", ["all codes", "one code"])
def test_stats(
    shape: tuple[int, int, int], layout: str, used: str, threads: int, compare: Callable
) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z = torch.randn(n, d) if layout == "rows" else torch.randn(n // 256, d, 256).movedim(1, -1)
    indices = torch.randint(k if used == "all codes" else 1, z.shape[:-1])

    def index_add() -> tuple[torch.Tensor, torch.Tensor]:
        flat = indices.reshape(-1)
        sums = torch.zeros(k, d).index_add_(0, flat, z.reshape(-1, d))
        return torch.bincount(flat, minlength=k), sums

    def one_hot() -> tuple[torch.Tensor, torch.Tensor]:
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
