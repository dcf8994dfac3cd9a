"""The entropy terms against the dense formula."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast.quantizers.entropy import entropy_terms


def dense(z, codebook, temperature):
    logits = -(z.reshape(-1, z.shape[-1])[:, None] - codebook).square().sum(2) / temperature
    p = logits.softmax(1)
    average = p.mean(0)
    sample = -(p * logits.log_softmax(1)).sum(1).mean()
    return sample, -(average * (average + 1e-5).log()).sum()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_values_and_gradients(temperature: float) -> None:
    results = []
    for compute in (entropy_terms, dense):
        torch.manual_seed(0)
        z = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
        codebook = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
        sample, average = compute(z, codebook, temperature)
        (2 * sample - average).backward()
        results.append((sample, average, z.grad, codebook.grad))
    torch.testing.assert_close(*results)


def test_single_precision_under_autocast() -> None:
    z, codebook = torch.randn(20, 3), torch.randn(12, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = entropy_terms(z.bfloat16(), codebook, 0.5)
    expected = dense(z.bfloat16().double(), codebook.double(), 0.5)
    torch.testing.assert_close(got, tuple(term.float() for term in expected))


def test_bad_temperature() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        entropy_terms(torch.zeros(1, 2), torch.zeros(1, 2), 0)
