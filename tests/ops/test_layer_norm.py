from __future__ import annotations

import decode_oracle
import pytest
import torch
from torch.nn import functional as F

from vqgan_fast import ops


@pytest.mark.parametrize("c", [1, 3, 8, 31, 32, 33, 100, 768])
def test_it_is_the_definition_to_the_bit(c: int, level: str) -> None:
    x, weight, bias = 3 * torch.randn(3, c) + 1, torch.randn(c), torch.randn(c)
    found = ops.layer_norm(x, weight, bias, 1e-5)
    assert torch.equal(found, decode_oracle.layer_norm(x, weight, bias, 1e-5))
    expected = F.layer_norm(x.double(), (c,), weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("restore_threads")
def test_threads_and_rows_change_nothing(level: str) -> None:
    x, weight, bias = torch.randn(300, 200), torch.randn(200), torch.randn(200)
    alone = torch.cat([ops.layer_norm(row[None], weight, bias) for row in x])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ops.layer_norm(x, weight, bias), alone)


def test_a_large_mean_does_not_drown_the_variance(level: str) -> None:
    x = torch.randn(4, 256) + 1e4
    found = ops.layer_norm(x, torch.ones(256), torch.zeros(256))
    expected = F.layer_norm(x.double(), (256,))
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_bad_input_is_named() -> None:
    x, one = torch.zeros(2, 8), torch.ones(8)
    with pytest.raises(RuntimeError, match=r"weight must be \(C,\) float32, got \(7,\)"):
        ops.layer_norm(x, one[:7], one)
    with pytest.raises(RuntimeError, match=r"x must be \(R, C\) float32, got \(8,\)"):
        ops.layer_norm(x[0], one, one)
    with pytest.raises(RuntimeError, match=r"x must be \(R, C\) with C >= 1"):
        ops.layer_norm(x[:, :0], one[:0], one[:0])
    with pytest.raises(RuntimeError, match="eps must be >= 0, got -1"):
        ops.layer_norm(x, one, one, -1.0)
    assert ops.layer_norm(x[:0], one, one).shape == (0, 8)


def test_what_is_no_tensor_is_named() -> None:
    x, one = torch.zeros(2, 8), torch.ones(8)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got numpy\.ndarray"):
        ops.layer_norm(x.numpy(), one, one)
    with pytest.raises(TypeError, match=r"bias must be a torch\.Tensor, got builtins\.list"):
        ops.layer_norm(x, one, one.tolist())
    assert not ops.layer_norm(x, one.requires_grad_(), one).requires_grad
