"""Which codes are restarted, and from where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vqgan_fast.quantizers import restart_dead_codes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_dead_codes_become_distinct_latents() -> None:
    codebook = torch.randn(10, 3)
    before = codebook.clone()
    dead = torch.tensor([True, False] * 5)
    latents = torch.randn(6, 3)
    replaced = restart_dead_codes(codebook, dead, latents, generator())
    assert replaced.tolist() == [0, 2, 4, 6, 8]
    assert torch.equal(codebook[~dead], before[~dead])
    sources = (codebook[replaced][:, None] == latents).all(-1)
    assert (sources.sum(1) == 1).all()
    assert (sources.sum(0) <= 1).all()


def test_latents_are_drawn_again_only_if_too_few() -> None:
    codebook = torch.zeros(40, 2)
    latents = torch.arange(1, 7.0).view(3, 2)
    restart_dead_codes(codebook, torch.ones(40, dtype=torch.bool), latents, generator())
    sources = (codebook[:, None] == latents).all(-1)
    assert (sources.sum(1) == 1).all()
    assert (sources.sum(0) > 0).all()


def test_every_latent_can_be_drawn() -> None:
    drawn = set()
    dead = torch.tensor([True, False])
    for seed in range(60):
        codebook = torch.zeros(2, 1)
        restart_dead_codes(codebook, dead, torch.arange(1, 6.0)[:, None], generator(seed))
        drawn.add(codebook[0].item())
    assert drawn == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_generator_decides() -> None:
    dead = torch.rand(64, generator=generator()) < 0.5
    latents = torch.randn(100, 4)
    results = []
    for seed in (3, 3, 4):
        codebook = torch.zeros(64, 4)
        torch.rand(seed)  # the global generator has no part in it
        restart_dead_codes(codebook, dead, latents, generator(seed))
        results.append(codebook)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_parameter_is_changed_outside_autograd() -> None:
    codebook = nn.Parameter(torch.zeros(4, 2))
    latents = torch.ones(4, 2, dtype=torch.bfloat16, requires_grad=True)
    restart_dead_codes(codebook, torch.tensor([True, True, False, False]), latents, generator())
    assert codebook.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert codebook.requires_grad
    assert codebook.is_leaf


def test_nothing_to_do() -> None:
    codebook = torch.ones(3, 2)
    none_dead = torch.zeros(3, dtype=torch.bool)
    assert restart_dead_codes(codebook, none_dead, torch.zeros(5, 2), generator()).numel() == 0
    no_latents = restart_dead_codes(codebook, ~none_dead, torch.zeros(0, 2), generator())
    assert no_latents.numel() == 0
    assert (codebook == 1).all()


def test_latents_that_are_not_finite_are_left_out() -> None:
    codebook = torch.zeros(5, 2)
    latents = torch.tensor([[float("nan"), 0], [1, 2], [0, float("inf")]])
    dead = torch.ones(5, dtype=torch.bool)
    restart_dead_codes(codebook, dead, latents, generator())
    assert (codebook == torch.tensor([1.0, 2.0])).all()
    assert restart_dead_codes(codebook, dead, latents[:1], generator()).numel() == 0


@pytest.mark.parametrize(
    ("codebook", "dead", "latents", "message"),
    [
        (torch.zeros(3), torch.ones(3).bool(), torch.zeros(1, 1), r"codebook must be \(K, D\)"),
        (torch.zeros(3, 2), torch.ones(3), torch.zeros(1, 2), r"dead must be bool of shape \(3,\)"),
        (torch.zeros(3, 2), torch.ones(2).bool(), torch.zeros(1, 2), r"got torch.bool of \(2,\)"),
        (torch.zeros(3, 2), torch.ones(3).bool(), torch.zeros(2), r"with D = 2, got \(2,\)"),
        (torch.zeros(3, 2), torch.ones(3).bool(), torch.zeros(2, 3), r"with D = 2, got \(2, 3\)"),
    ],
)
def test_bad_input(codebook, dead, latents, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restart_dead_codes(codebook, dead, latents, generator())


@pytest.mark.parametrize("name", ["codebook", "dead", "latents", "generator"])
def test_arguments_of_another_type(name: str) -> None:
    arguments = {
        "codebook": torch.zeros(3, 2),
        "dead": torch.ones(3, dtype=torch.bool),
        "latents": torch.zeros(4, 2),
        "generator": generator(),
    }
    with pytest.raises(TypeError, match=rf"^{name} must be a torch\.\w+, got None"):
        restart_dead_codes(**arguments | {name: None})
