"""`soft_assign` and the dense formula in plain torch, for the benchmarks: one call and one step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vqgan_fast import ops


def dense(z: Tensor, codebook: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The expected value and the entropy, with the distances expanded as such code does."""
    norms = z.square().sum(1, keepdim=True) + codebook.square().sum(1)
    log_p = ((2 * z @ codebook.T - norms) / temperature).log_softmax(1)
    p = log_p.exp()
    return p @ values, -(p * log_p).sum(1)


def ours(z: Tensor, codebook: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    found = ops.soft_assign(
        z, codebook, outputs=("expected", "entropy"), values=values, temperature=temperature
    )
    return found.expected, found.entropy


FORMS = {"soft_assign": ours, "dense torch": dense}


def gradients(
    form: Callable, z: Tensor, codebook: Tensor, temperature: float = 1.0
) -> tuple[Tensor, ...]:
    """By z and codebook; the codebook as values is held fixed, as in IBQ."""
    expected, entropy = form(z, codebook, codebook.detach(), temperature)
    weights = torch.ones_like(expected).cumsum(0) / len(expected)
    return torch.autograd.grad((expected * weights).sum() + entropy.sum(), (z, codebook))
