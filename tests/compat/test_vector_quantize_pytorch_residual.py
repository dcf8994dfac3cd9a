"""ResidualVQ, GroupedResidualVQ and SimVQ beside the package's own."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from vq_pytorch_pairs import (
    assert_same,
    assert_same_state,
    assert_same_training,
    call_alike,
    nearest_by_fp64,
    pair,
)


@pytest.fixture(autouse=True)
def same_search(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest_by_fp64(monkeypatch)


DIM, CODES, STAGES = 16, 32, 4
LEARNED = {"learnable_codebook": True, "ema_update": False}
OPTIONS = {
    "default": {},
    "straight through": {"rotation_trick": False},
    "projections": {"codebook_dim": 8},
    "shared": {"shared_codebook": True},
    "shared, dead codes": {"shared_codebook": True, "threshold_ema_dead_code": 2},
    "shared, dead codes, orthogonal": {
        "shared_codebook": True,
        "threshold_ema_dead_code": 2,
        "orthogonal_reg_weight": 1.0,
    },
    "shared, its own optimiser": LEARNED
    | {"shared_codebook": True, "in_place_codebook_optimizer": partial(torch.optim.SGD, lr=0.5)},
    "sizes": {"codebook_size": (32, 16, 8), "num_quantizers": None},
    "dropout": {"quantize_dropout": True},
    "dropout from 2, by 2": {
        "quantize_dropout": True,
        "quantize_dropout_cutoff_index": 1,
        "quantize_dropout_multiple_of": 2,
    },
    "dropout, shared": {"quantize_dropout": True, "shared_codebook": True},
    "gradient between stages": LEARNED | {"quant_grad_frac": 0.4},
    "k-means": {"kmeans_init": True, "kmeans_iters": 3, "codebook_size": 8},
    "cosine, dead codes": {"use_cosine_sim": True, "threshold_ema_dead_code": 2},
    "diveq": {"diveq": True},
}
SIZES = {"dim": DIM, "num_quantizers": STAGES, "codebook_size": CODES}


# With seed 1, k-means of the second stage meets two centroids so alike that the last bit of what
# the first stage left decides.
@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_same_construction_training_and_evaluation(name: str, seed: int) -> None:
    modules = pair("ResidualVQ", seed, **SIZES | OPTIONS[name])
    assert_same_state(modules, atol=0)
    # Enough latents that none is alone in its cluster: what such a one leaves to the next stage is
    # rounding, which chooses codes and directions, and is not the same in both.
    alone = name == "k-means" or name.startswith("shared, dead codes")
    rows = (2, 300) if alone else (2, 48)
    assert_same_training(modules, DIM, rows=rows, seed=seed, steps=3 if seed else 10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stages", [1, 3])
def test_same_dead_codes_are_replaced_in_a_shared_codebook(stages: int, seed: int) -> None:
    sizes = {**SIZES, "num_quantizers": stages, "shared_codebook": True}
    modules = pair("ResidualVQ", seed, **sizes, threshold_ema_dead_code=1)
    before = modules[1].codebooks.clone()
    theirs, own = call_alike(modules, seed, torch.randn(2, 9, DIM))
    assert_same(own, theirs)
    assert_same_state(modules)
    replaced = (modules[1].codebooks != before).any(-1).sum()
    assert replaced > stages * 2 * 9, "no code was dead: the test sees nothing"


@pytest.mark.parametrize("options", [{}, {"return_zeros_for_masked_padding": False}], ids=str)
def test_same_with_padding(options: dict) -> None:
    modules = pair("ResidualVQ", 0, **SIZES, **options)
    mask = torch.arange(48) < torch.tensor([7, 48])[:, None]
    assert_same_training(modules, DIM, mask=mask, steps=4)


@pytest.mark.parametrize("name", ["default", "shared", "sizes", "dropout", "projections"])
def test_same_codes(name: str) -> None:
    modules = pair("ResidualVQ", 0, **SIZES | OPTIONS[name])
    x = torch.randn(2, 48, DIM)
    theirs, own = call_alike(modules, 3, x, return_all_codes=True)
    assert_same(own, theirs)
    kept = (own[1] >= 0).all(0).all(0)
    assert (not kept.all()) == (name == "dropout")

    theirs, own = call_alike(tuple(m.eval() for m in modules), 0, x, return_all_codes=True)
    assert_same(own, theirs)
    assert_same(modules[1].get_output_from_indices(own[1]), own[0])
    if name == "dropout":
        coarse = [module.get_codes_from_indices(own[1][..., :2]) for module in modules]
        assert_same(*coarse)
    else:
        with pytest.raises(ValueError, match=r"indices must have . in their last dimension"):
            modules[1].get_codes_from_indices(own[1][..., :2])
    with pytest.raises(ValueError, match=r"indices must have . in their last .*, 48, 7\)"):
        modules[1].get_output_from_indices(torch.zeros(2, 48, 7, dtype=torch.int64))
    for theirs, own in zip(*(module.codebooks for module in modules), strict=True):
        assert_same(own, theirs)


@pytest.mark.parametrize(
    "options",
    [{}, {"masked": True}, {"masked": True, "return_zeros_for_masked_padding": False}],
    ids=str,
)
def test_images(options: dict) -> None:
    """The package fails at them: the same as rows."""
    options = dict(options)
    mask = torch.rand(2, 48) < 0.6 if options.pop("masked", False) else None
    _, rows = pair("ResidualVQ", 0, **SIZES, **options)
    _, images = pair("ResidualVQ", 0, **SIZES, **options, accept_image_fmap=True)
    x = torch.randn(2, DIM, 6, 8)
    for _ in range(2):
        expected = rows(x.flatten(2).mT, mask=mask, return_all_codes=True)
        actual = images(x, mask=mask, return_all_codes=True)
        assert torch.equal(actual[0].flatten(2).mT, expected[0])
        assert torch.equal(actual[1].flatten(1, 2), expected[1])
        assert torch.equal(actual[2], expected[2])
        assert torch.equal(actual[3].flatten(2, 3), expected[3])


@pytest.mark.parametrize("name", ["default", "dropout", "shared", "projections"])
def test_groups(name: str) -> None:
    modules = pair("GroupedResidualVQ", 0, groups=2, **SIZES | OPTIONS[name])
    assert_same_state(modules, atol=0)
    for step in range(4):
        x = torch.randn(2, 48, DIM, requires_grad=True)
        theirs, own = call_alike(modules, step, x, return_all_codes=True)
        assert_same(own, theirs)
        gradients = [
            torch.autograd.grad(r[0].square().sum() + r[2].sum(), x) for r in (theirs, own)
        ]
        assert_same(gradients[1], gradients[0], atol=1e-4)
    assert_same_state(modules)
    theirs, own = call_alike(tuple(m.eval() for m in modules), 0, x)
    assert_same(own, theirs)
    assert_same(*(module.get_codes_from_indices(own[1]) for module in modules))
    assert_same(*(module.get_output_from_indices(own[1]) for module in modules))


@pytest.mark.parametrize("groups", [1, 2])
def test_compiled_dropout_keeps_the_same_stages(groups: int) -> None:
    """A graph for each number of stages, which is chosen outside of them."""
    name, options = ("GroupedResidualVQ", {"groups": groups}) if groups > 1 else ("ResidualVQ", {})
    _, module = pair(name, 0, **SIZES, quantize_dropout=True, **options)
    compiled = torch.compile(copy.deepcopy(module), backend="eager")
    numbers = set()
    for step in range(5):
        x = torch.randn(2, 9, DIM)
        expected, own = call_alike((module, compiled), step, x)
        assert_same(own, expected)
        numbers.add(int((own[1] >= 0).flatten(0, -2).all(0).sum()))
    assert len(numbers) > 1


SIM_OPTIONS = {
    "default": {},
    "straight through": {"rotation_trick": False},
    "weights": {"commitment_weight": 2.0, "input_to_quantize_commit_loss_weight": 0.7},
    "frozen_codebook_dim": {"frozen_codebook_dim": 5},
    "init_fn": {"init_fn": lambda codes: codes.clamp(-0.1, 0.1)},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SIM_OPTIONS)
def test_sim_vq(name: str, seed: int) -> None:
    modules = pair("SimVQ", seed, dim=DIM, codebook_size=CODES, **SIM_OPTIONS[name])
    assert_same_state(modules, atol=0)
    assert_same_training(modules, DIM, seed=seed, steps=3 if seed else 10)
    quantized, indices, _ = modules[1](torch.randn(2, 48, DIM))
    codes = [module.indices_to_codes(indices) for module in modules]
    assert_same(*codes)
    assert_same(quantized, codes[0])
    assert_same(*(module.codebook for module in modules))


def test_sim_vq_with_channels_first_and_a_map_of_its_own() -> None:
    modules = pair("SimVQ", 0, dim=DIM, codebook_size=CODES, channel_first=True)
    for module in modules:
        torch.manual_seed(1)
        module.code_transform = nn.Sequential(nn.Linear(DIM, 9), nn.ReLU(), nn.Linear(9, DIM))
    x = torch.randn(2, DIM, 6, 8, requires_grad=True)
    theirs, own = call_alike(modules, 0, x)
    assert_same(own, theirs)
    for result in (theirs, own):
        (result[0].square().sum() + result[2]).backward()
    for one, other in zip(*(module.parameters() for module in modules), strict=True):
        assert_same(other.grad, one.grad)
    assert_same(*(module.indices_to_codes(own[1]) for module in modules))
