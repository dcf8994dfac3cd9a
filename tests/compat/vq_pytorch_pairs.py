"""Pairs of a quantiser of vector-quantize-pytorch and ours, made and run alike.

The package searches in fp32, where about one latent in 400 000 of these sizes gets another code
than the nearest, by rounding that depends on the machine; then all that follows differs. So tests
of the rest use `nearest_by_fp64`; `test_vector_quantize_pytorch_search.py` compares the
searches as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import vector_quantize_pytorch as peer
from torch import Tensor, nn

from vqgan_fast.compat import vector_quantize_pytorch as ours

Pair = tuple[nn.Module, nn.Module]


def nearest_by_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's fp32 distances, but the smallest one is where it is in fp64."""

    def distances(x: Tensor, y: Tensor) -> Tensor:
        x, y = x.double(), y.double()
        squared = x.square().sum(-1, keepdim=True) + y.square().sum(-1).unsqueeze(-2)
        wide = (squared - 2 * x @ y.mT).clamp(min=1e-8).sqrt()
        is_nearest = torch.zeros_like(wide, dtype=torch.bool)
        is_nearest.scatter_(-1, wide.argmin(-1, keepdim=True), True)
        return torch.where(is_nearest, wide * (1 - 2**-20), wide).float()

    monkeypatch.setattr(peer.vector_quantize_pytorch, "cdist", distances)
    monkeypatch.setattr(torch, "cdist", distances)  # SimVQ's


def pair(name: str, seed: int, **options: Any) -> Pair:
    """The package's class of that name and ours, from the same random numbers."""
    made = []
    for package in (peer, ours):
        torch.manual_seed(seed)
        made.append(getattr(package, name)(**options))
    return made[0], made[1]


def call_alike(modules: Pair, seed: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What both return, each after the same seed."""
    results = []
    for module in modules:
        torch.manual_seed(seed)
        results.append(module(*args, **kwargs))
    return results[0], results[1]


def assert_same(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_same_state(modules: Pair, atol: float = 1e-5) -> None:
    """Equal keys in equal order, shapes, types, values and kinds (parameter or buffer)."""
    theirs, own = (module.state_dict() for module in modules)
    assert list(own) == list(theirs)
    for key, value in theirs.items():
        assert own[key].dtype == value.dtype
        torch.testing.assert_close(
            own[key], value, rtol=1e-5, atol=atol, msg=lambda m, k=key: f"{k}: {m}"
        )
    names = [[name for name, _ in module.named_parameters()] for module in modules]
    assert names[0] == names[1]


class Training:
    """A linear encoder, a quantiser, a linear decoder, trained to reconstruct.

    Args:
        quantizer: from latents (B, N, D) to (quantised, indices, loss).
        to_latents: from what the encoder gives, (B, N, D), to what the quantiser takes.
    """

    def __init__(self, quantizer: nn.Module, dim: int, to_latents: Callable[[Tensor], Tensor]):
        torch.manual_seed(5)
        self.encoder, self.decoder = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.quantizer, self.to_latents = quantizer, to_latents
        modules = nn.ModuleList([self.encoder, self.decoder, quantizer])
        self.optimizer = torch.optim.SGD(modules.parameters(), lr=0.05, momentum=0.9)

    def step(self, data: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        """One step; what came out of it, gradients included."""
        encoded = self.encoder(data)
        latents = self.to_latents(encoded)
        latents.retain_grad()
        quantized, indices, loss = self.quantizer(latents, **kwargs)[:3]
        like_data = quantized.movedim(1, -1) if quantized.shape[-1] != data.shape[-1] else quantized
        error = (self.decoder(like_data.reshape(data.shape)) - data).square().mean()
        self.optimizer.zero_grad()
        (error + loss.sum()).backward()
        seen = {"quantized": quantized.detach(), "indices": indices, "loss": loss.detach()}
        seen |= {"error": error.detach(), "gradient": latents.grad}
        for name, parameter in self.quantizer.named_parameters():
            if parameter.grad is not None:
                seen[f"gradient of {name}"] = parameter.grad.clone()
        self.optimizer.step()
        return seen


def assert_same_training(
    modules: Pair,
    dim: int,
    to_latents: Callable[[Tensor], Tensor] = lambda x: x + 0,
    steps: int = 10,
    rows: tuple[int, int] = (2, 48),
    seed: int = 0,
    **kwargs: Any,
) -> None:
    """Training gives the same at every step, then the same state and evaluation."""
    trainings = [Training(module.train(), dim, to_latents) for module in modules]
    for step in range(steps):
        torch.manual_seed(100 * seed + step)
        data = torch.randn(*rows, dim)
        seen = []
        for training in trainings:
            torch.manual_seed(step)
            seen.append(training.step(data, **kwargs))
        assert seen[0].keys() == seen[1].keys()
        for name, value in seen[0].items():
            torch.testing.assert_close(
                seen[1][name], value, rtol=1e-5, atol=1e-5,
                msg=lambda m, s=step, n=name: f"step {s}, {n}: {m}",
            )  # fmt: skip
    assert_same_state(modules)
    latents = to_latents(torch.randn(*rows, dim)).detach()
    theirs, own = call_alike(tuple(m.eval() for m in modules), 7, latents, **kwargs)
    assert_same(own[:3], theirs[:3])
