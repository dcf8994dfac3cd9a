"""When ActNorm takes its statistics, and that two ranks take the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_on_two_ranks

from vqgan_fast.models.actnorm import ActNorm


def test_starts_again_from_loaded_state() -> None:
    fresh = ActNorm(3).state_dict()
    norm = ActNorm(3)
    norm(torch.randn(8, 3, 4, 4))
    norm.load_state_dict(fresh)
    y = norm(5 + 2 * torch.randn(8, 3, 4, 4))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_one_value_per_channel_is_no_start() -> None:
    norm = ActNorm(3)
    with pytest.raises(ValueError, match="more than 1 value per channel to start from, got 1"):
        norm(torch.randn(1, 3, 1, 1))
    y = norm(torch.randn(2, 3, 1, 1))
    assert y.isfinite().all()


def test_starts_alike_on_two_ranks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 4, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 1
    expected = ActNorm(3)
    expected(x)
    run_on_two_ranks(_start_actnorm, tmp_path, x)
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt")
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6)


def _start_actnorm(rank: int, folder: Path, x: torch.Tensor) -> None:
    norm = ActNorm(3)
    norm(x.chunk(2)[rank])
    torch.save(norm.state_dict(), folder / f"rank{rank}.pt")
