"""fp32 against fp64 where digits are lost easily: low temperatures, offsets, small differences.

Every gradient is taken by itself: beside a large one, the errors of a small one would not show.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from soft_assign_cases import (
    OUTPUTS,
    SMOOTH,
    dense,
)
from torch import Tensor
from torch.nn.functional import normalize

from vqgan_fast import ops

# Of the largest magnitude in each result and each gradient by itself.
TOLERANCE = 1e-5


def entropy_loss(found: ops.SoftAssignment) -> Tensor:
    """As LlamaGen and IBQ train: what the two entropies have in common cancels."""
    average = found.mean_probability
    return found.entropy.mean() + (average * (average + 1e-5).log()).sum()


def parts_of(found: ops.SoftAssignment, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    losses = {"entropy loss": entropy_loss(found)}
    for name in SMOOTH:
        out = getattr(found, name)
        losses[name] = (out * torch.randn(out.shape, generator=generator).to(out)).sum()
    parts = {name: getattr(found, name) for name in SMOOTH}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, inputs, retain_graph=True)
        parts |= {f"{name} by {x}": g for x, g in zip(("z", "codebook"), grads, strict=True)}
    return parts


def errors(z: Tensor, codebook: Tensor, temperature: float, metric: str) -> dict[str, float]:
    """Of each part, as a share of its largest magnitude."""
    options = {"temperature": temperature, "metric": metric}

    def parts(form: Callable, dtype: torch.dtype) -> dict[str, Tensor]:
        inputs = tuple(x.detach().clone().to(dtype).requires_grad_() for x in (z, codebook))
        found = parts_of(form(*inputs, **options), inputs)
        return {name: value.detach().double() for name, value in found.items()}

    def ours(*inputs: Tensor, **options: object) -> ops.SoftAssignment:
        return ops.soft_assign(*inputs, outputs=OUTPUTS, wide=True, **options)

    expected = parts(dense, torch.float64)
    return {
        name: float((value - expected[name]).abs().max() / expected[name].abs().max())
        for name, value in parts(ours, torch.float32).items()
    }


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("dim", [4, 32, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1, 0.03, 0.01])
def test_at_every_temperature(temperature: float, dim: int, metric: str, level: str) -> None:
    """Latents and codes of length 1, as LlamaGen has them."""
    torch.manual_seed(0)
    z, codebook = normalize(torch.randn(40, dim)), normalize(torch.randn(300, dim))
    worst = errors(z, codebook, temperature, metric)
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("size", [0.02, 1.0, 30.0])
def test_of_every_size(size: float, metric: str, level: str) -> None:
    torch.manual_seed(0)
    z, codebook = torch.randn(70, 16) * size, torch.randn(600, 16) * size
    worst = errors(z, codebook, 1.0 if size < 10 else size**2 / 4, metric)
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_an_offset_of_all_codes(temperature: float, level: str) -> None:
    """Far from 0, a distance of the expanded form would be a small difference of large numbers."""
    torch.manual_seed(0)
    z, codebook = torch.randn(70, 16) + 3, torch.randn(600, 16) * 0.5 + 3
    worst = errors(z, codebook, temperature, "l2")
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("offset", [0, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_values_near_each_other(temperature: float, offset: float, level: str) -> None:
    """What they differ by is a small part of their mean, `expected`, which is fp32."""
    torch.manual_seed(0)
    z, codebook = normalize(torch.randn(40, 16)), normalize(torch.randn(300, 16))
    inputs = z, codebook, offset + 0.1 * torch.randn(300, 8)
    weights = torch.randn(40, 8)
    parts = []
    for form, dtype in ((ops.soft_assign, torch.float32), (dense, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        options = {"outputs": ("expected",)} if form is ops.soft_assign else {}
        z, codebook, values = leaves
        expected = form(z, codebook, values=values, temperature=temperature, **options).expected
        gradients = torch.autograd.grad((expected * weights.to(dtype)).sum(), leaves)
        parts.append([x.detach().double() for x in (expected, *gradients)])
    for found, wanted in zip(*parts, strict=True):
        assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def test_indices_at_a_low_temperature_are_those_of_fp64(level: str) -> None:
    torch.manual_seed(0)
    codes = normalize(torch.randn(20, 8))
    codebook = torch.cat([codes, codes * (1 + 2e-7), codes * (1 - 2e-7)])
    z = normalize(torch.randn(500, 8))
    found = ops.soft_assign(z, codebook, outputs=("indices",), temperature=0.01).indices
    expected = ops.soft_assign(z.double(), codebook, outputs=("indices",), temperature=0.01).indices
    assert torch.equal(found, expected)


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_latents_that_are_sure_of_their_codes(spread: float, metric: str, level: str) -> None:
    """Where one code has nearly all the probability, the gradient of `expected` is a small
    difference of large products, and even the dense form in fp64 loses it: so every product is
    measured from that code's here. Each latent's gradient is judged by itself."""
    torch.manual_seed(0)
    codebook, weights, values = torch.randn(256, 32), torch.randn(64, 9), torch.randn(256, 9)
    z = spread * codebook[torch.randint(256, (64,))] + 0.1 * torch.randn(64, 32)
    bias = 0.1 * torch.randn(256)
    leaves = [x.requires_grad_() for x in (z, codebook, values, bias)]
    options = {"outputs": ("expected",), "metric": metric, "values": values, "bias": bias}
    found = ops.soft_assign(z, codebook, **options).expected
    found = torch.autograd.grad((found * weights).sum(), leaves)

    z, codebook, values, bias, weights = (x.detach().double() for x in (*leaves, weights))
    factor = 2.0 if metric == "l2" else 1.0
    scores = factor * z @ codebook.T + bias
    if metric == "l2":
        scores -= codebook.square().sum(1)
    p, likely = scores.softmax(1), scores.argmax(1, keepdim=True)
    products = weights @ values.T
    products -= products.gather(1, likely)
    others = (p * (products - (p * products).sum(1, keepdim=True))).scatter(1, likely, 0.0)
    by_score = others.scatter(1, likely, -others.sum(1, keepdim=True))
    from_likely = codebook - codebook[likely]
    by_z = factor * (others[:, :, None] * from_likely).sum(1)
    by_codes = factor * by_score.T @ z
    if metric == "l2":
        by_codes -= factor * by_score.sum(0)[:, None] * codebook
    size = by_z.norm(dim=1)
    seen = size > 1e-30  # not what fp32 has no numbers for
    assert (p.amax(1)[seen] > 0.999).sum() > 5
    assert ((found[0].double() - by_z).norm(dim=1) / size)[seen].max() <= 5 * TOLERANCE
    for one, other in zip(found[1:], (by_codes, p.T @ weights, by_score.sum(0)), strict=True):
        assert (one - other).abs().max() <= TOLERANCE * other.abs().max()


def test_entropies_of_sure_latents_by_the_codes(level: str) -> None:
    """Every pass adds what makes a logit in one order: what it says of a sure code is near 0."""
    for seed in range(20):
        torch.manual_seed(seed)
        worst = errors(torch.randn(5, 2), torch.randn(3, 2), 0.1, "l2")
        assert worst["entropy by codebook"] <= TOLERANCE, seed
