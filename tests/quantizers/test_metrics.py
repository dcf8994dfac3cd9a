"""Perplexity and usage of known counts."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast.quantizers import perplexity, usage


@pytest.mark.parametrize(
    ("counts", "expected_perplexity", "expected_usage"),
    [
        ([5, 5, 5, 5], 4.0, 1.0),
        ([7, 0, 0, 0], 1.0, 0.25),
        ([1000, 1000, 0, 0], 2.0, 0.5),
        ([2, 1, 1, 0], 2**1.5, 0.75),
    ],
)
def test_known_counts(counts, expected_perplexity, expected_usage) -> None:
    counts = torch.tensor(counts)
    torch.testing.assert_close(perplexity(counts), torch.tensor(expected_perplexity))
    assert usage(counts) == expected_usage


def test_nothing_counted() -> None:
    counts = torch.zeros(4, dtype=torch.int64)
    assert perplexity(counts).isnan()
    assert usage(counts) == 0


@pytest.mark.parametrize("measure", [perplexity, usage])
def test_what_is_no_tensor_is_refused(measure) -> None:
    with pytest.raises(TypeError, match=r"counts must be a torch.Tensor, got builtins.list"):
        measure([1, 2])
