"""A stand-in against what it stands in for: one step, several steps, state dicts, indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# What is read from a module's output: z_q, its losses, its indices.
Parts = tuple[Tensor, Sequence[Tensor], Tensor]
Reader = Callable[[Any], Parts]


class Outcome(NamedTuple):
    """One forward and backward pass."""

    z_q: Tensor
    losses: list[Tensor]
    indices: Tensor
    gradients: dict[str, Tensor]


def latents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread_codes(module: nn.Module, seed: int = 0) -> nn.Module:
    """Codes as far apart as the latents: what is trained, not what is drawn at the start."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 2 and tensor.is_floating_point():
            tensor.data.normal_(generator=generator)
    return module


def pair(ours: nn.Module, peer: nn.Module, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Both with the peer's weights; the state dicts go both ways, key by key."""
    spread_codes(peer, seed)
    state = peer.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in ours.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }
    ours.load_state_dict(state)
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def step(module: nn.Module, z: Tensor, read: Reader) -> Outcome:
    """Forward, and backward through z_q and every loss, each with a weight of its own."""
    leaf = z.clone().requires_grad_()
    module.zero_grad()
    z_q, losses, indices = read(module(leaf))
    total = (z_q * latents(*z_q.shape, seed=99)).sum()
    for i, loss in enumerate(losses):
        total = total + (i + 2) * loss
    if total.requires_grad:
        total.backward()
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    if leaf.grad is not None:
        gradients["z"] = leaf.grad
    return Outcome(z_q.detach(), [loss.detach() for loss in losses], indices, gradients)


def assert_same(ours: Outcome, peer: Outcome) -> None:
    """Equal indices; outputs, losses and gradients as near as two orders of fp32 sums are."""
    assert ours.indices.shape == peer.indices.shape
    assert torch.equal(ours.indices, peer.indices)
    assert ours.z_q.shape == peer.z_q.shape
    assert ours.z_q.is_contiguous()
    torch.testing.assert_close(ours.z_q, peer.z_q, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.losses, peer.losses, rtol=1e-5, atol=1e-7)
    assert ours.gradients.keys() == peer.gradients.keys()
    for name, gradient in ours.gradients.items():
        torch.testing.assert_close(
            gradient, peer.gradients[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def losses_of_ten_steps(module: nn.Module, dim: int, read: Reader, seed: int = 0) -> Tensor:
    """(10, number of losses): a convolution before the module is trained together with it."""
    torch.manual_seed(seed)
    before = nn.Conv2d(3, dim, 1)
    parameters = [p for p in (*before.parameters(), *module.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    told = []
    for i in range(10):
        image = latents(2, 3, 6, 6, seed=100 + i)
        z_q, losses, _ = read(module(before(image)))
        total = (z_q - latents(*z_q.shape, seed=7)).square().mean() + sum(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        told.append(torch.stack([total.detach(), *(loss.detach() for loss in losses)]))
    return torch.stack(told)


def remap_file(folder: Path, codes: Sequence[int] = (3, 7, 1, 22, 39, 11)) -> str:
    """A file for `remap`, of integers that torch does not index by."""
    path = folder / "used.npy"
    np.save(path, np.asarray(codes, np.int32))
    return str(path)


def differing_share(rows: Tensor, codebook: Tensor, ours: Tensor, peer: Tensor) -> float:
    """The share of rows with different indices; where they differ, ours is the nearer in fp64.

    Args:
        rows: (N, D). codebook: (K, D). ours, peer: (N,) indices.
    """
    rows, codes = rows.double(), codebook.double()
    distance = (rows - codes[ours]).square().sum(-1)
    other = (rows - codes[peer]).square().sum(-1)
    assert (distance <= other).all(), "the peer found a nearer code"
    return (ours != peer).double().mean().item()
