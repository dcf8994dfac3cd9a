"""VectorQuantize beside the package's own: every option, training, evaluation, state, lookups."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from vq_pytorch_pairs import (
    Pair,
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


DIM, CODES = 16, 32
LEARNED = {"learnable_codebook": True, "ema_update": False}
OPTIONS = {
    "default": {},
    "straight through": {"rotation_trick": False},
    "decay, eps, weight": {"decay": 0.95, "eps": 1e-2, "commitment_weight": 0.3},
    "no commitment": {"commitment_weight": 0.0},
    "projections": {"codebook_dim": 6},
    "layer norm": {"codebook_dim": 6, "layernorm_after_project_in": True},
    "heads": {"heads": 4, "codebook_dim": 4},
    "heads, projections": {"heads": 4, "codebook_dim": 8},
    "separate heads": {"heads": 4, "codebook_dim": 4, "separate_codebook_per_head": True},
    "heads of whole latents": {"heads": 2, "separate_codebook_per_head": True},
    "cosine": {"use_cosine_sim": True},
    "cosine, separate heads, dead codes": {
        "use_cosine_sim": True,
        "heads": 2,
        "codebook_dim": 8,
        "separate_codebook_per_head": True,
        "threshold_ema_dead_code": 2,
    },
    "k-means": {"kmeans_init": True, "kmeans_iters": 4},
    "k-means, cosine, heads": {
        "kmeans_init": True,
        "use_cosine_sim": True,
        "heads": 2,
        "separate_codebook_per_head": True,
    },
    "dead codes": {"threshold_ema_dead_code": 2},
    "more dead codes than latents": {"threshold_ema_dead_code": 2, "codebook_size": 300},
    "dead codes, heads": {"threshold_ema_dead_code": 2, "heads": 4, "codebook_dim": 4},
    "learned": LEARNED,
    "learned, dead codes": LEARNED | {"threshold_ema_dead_code": 2},
    "learned, synchronous": LEARNED | {"rotation_trick": False, "sync_update_v": 0.3},
    "learned, frozen": LEARNED | {"freeze_codebook": True},
    "frozen": {"freeze_codebook": True},
    "manual": {"manual_ema_update": True},
    "no moving averages": {"ema_update": False},
    "directional": {"directional_reparam": True, "threshold_ema_dead_code": 1},
    "no gradient of the input": LEARNED | {"route_gradients_to_input": False},
    "orthogonal": {"orthogonal_reg_weight": 10.0},
    "orthogonal, some": {"orthogonal_reg_weight": 1.0, "orthogonal_reg_max_codes": 9},
    "orthogonal, active": LEARNED
    | {"orthogonal_reg_weight": 1.0, "orthogonal_reg_active_codes_only": True},
    "its own optimiser": LEARNED
    | {"in_place_codebook_optimizer": partial(torch.optim.SGD, lr=0.5)},
}


def quantizers(seed: int = 0, **options: object) -> Pair:
    return pair("VectorQuantize", seed, **{"dim": DIM, "codebook_size": CODES} | options)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OPTIONS)
def test_same_construction_training_and_evaluation(name: str, seed: int) -> None:
    modules = quantizers(seed, **OPTIONS[name])
    assert_same_state(modules, atol=0)
    assert_same_training(modules, DIM, seed=seed, steps=3 if seed else 10)


def as_images(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (6, 8)).movedim(-1, 1).contiguous()


def as_videos(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (2, 6, 4)).movedim(-1, 1).contiguous()


@pytest.mark.parametrize("extra", ["default", "projections", "heads", "separate heads", "k-means"])
@pytest.mark.parametrize(
    ("options", "to_latents"),
    [
        ({"accept_image_fmap": True}, as_images),
        ({"accept_3d_fmap": True}, as_videos),
        ({"channel_last": False}, lambda x: x.mT.contiguous()),
        ({}, lambda x: x[:, 0] + 0),
    ],
    ids=["images", "videos", "channels first", "one position"],
)
def test_same_for_every_shape(options: dict, to_latents, extra: str) -> None:
    modules = quantizers(**options, **OPTIONS[extra])
    for step in range(3):
        x = to_latents(torch.randn(60, 48, DIM)).requires_grad_()
        theirs, own = call_alike(modules, step, x)
        assert_same(own, theirs)
        gradients = [torch.autograd.grad(r[0].square().sum() + r[2], x) for r in (theirs, own)]
        assert_same(gradients[1], gradients[0], atol=1e-4)
    assert_same_state(modules)
    theirs, own = call_alike(tuple(m.eval() for m in modules), 0, x)
    assert_same(own, theirs)


# It warns itself of what it compares where heads have whole latents.
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize(
    "name", ["default", "cosine", "dead codes", "k-means", "heads of whole latents"]
)
def test_same_with_padding(name: str, zeros: bool) -> None:
    modules = quantizers(**OPTIONS[name], return_zeros_for_masked_padding=zeros)
    lens = torch.tensor([7, 48])
    mask = torch.arange(48) < lens[:, None]
    assert_same_training(modules, DIM, mask=mask, steps=4)
    assert_same_training(modules, DIM, lens=lens, steps=2)
    x = torch.randn(2, 48, DIM)
    both_ways = [modules[1](x, **by)[0] for by in ({"mask": mask}, {"lens": lens})]
    assert torch.equal(*both_ways)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_same_with_padding_and_heads_that_share_a_codebook() -> None:
    """The package can for a batch of one; ours for more, as the mean over them."""
    modules = quantizers(heads=2)
    x, mask = torch.randn(2, 48, DIM), torch.arange(48)[None] < 30
    theirs, own = call_alike(modules, 0, x[:1], mask=mask)
    assert_same(own, theirs)
    single = [modules[1](row[None], mask=mask, freeze_codebook=True)[2] for row in x]
    both = modules[1](x, mask=mask.expand(2, -1), freeze_codebook=True)[2]
    assert_same(both, torch.stack(single).mean())


@pytest.mark.parametrize("name", ["heads", "separate heads", "projections"])
def test_same_with_padding_in_evaluation(name: str) -> None:
    modules = tuple(m.eval() for m in quantizers(**OPTIONS[name]))
    mask = torch.arange(48) < torch.tensor([7, 48])[:, None]
    theirs, own = call_alike(modules, 0, torch.randn(2, 48, DIM), mask=mask)
    assert_same(own, theirs)
    assert (own[1][0, 7:] == -1).all()


def test_same_weighted_and_accumulated_updates() -> None:
    modules = quantizers()
    x = torch.randn(2, 48, DIM)
    weights = [torch.rand(CODES), torch.rand(1, CODES), lambda sums, counts: 1 / (1 + counts)]
    weights += [0.5, lambda sums, counts: 2]
    for weight in weights:
        assert_same(*reversed(call_alike(modules, 0, x, ema_update_weight=weight)))
        call_alike(modules, 0, x + 0.1, accum_ema_update=True)
        call_alike(modules, 0, x - 0.1, accum_ema_update=True)
        assert_same_state(modules)
        call_alike(modules, 0, x, ema_update=True)
        assert_same_state(modules)
        call_alike(modules, 0, x, ema_update=False)
        call_alike(modules, 0, x, freeze_codebook=True)
        assert_same_state(modules)


@pytest.mark.parametrize("weight", [torch.ones(7), lambda sums, counts: torch.ones(2, CODES)])
def test_a_weight_of_updates_that_does_not_fit(weight) -> None:
    _, module = quantizers()
    with pytest.raises(ValueError, match=r"^ema_update_weight must be .* H, K = \(1, 32\), got"):
        module(torch.randn(2, 48, DIM), ema_update_weight=weight)
    assert torch.equal(module._codebook.cluster_size, torch.ones(1, CODES))


def test_same_manual_updates() -> None:
    modules = quantizers(manual_ema_update=True, threshold_ema_dead_code=1)
    x = torch.randn(2, 48, DIM)
    for step in range(3):
        call_alike(modules, step, x)
        for module in modules:
            module._codebook.update_ema()
            torch.manual_seed(step)
            module.expire_codes_(x)
            module.update_indices(x, torch.arange(96).view(2, 48) % CODES)
        assert_same_state(modules)


@pytest.mark.parametrize("name", ["default", "heads", "separate heads"])
def test_same_updates_by_indices(name: str) -> None:
    modules = quantizers(**OPTIONS[name])
    x = torch.randn(2, 48, DIM)
    heads = OPTIONS[name].get("heads", 1)
    indices = torch.randint(CODES, (2, 48, heads)).squeeze(-1)
    mask = torch.rand(2, 48) < 0.5
    for module in modules:
        module.update_indices(x, indices)
        module.update_indices(x, indices, mask=mask)
    assert_same_state(modules)


def test_same_loss_breakdown() -> None:
    modules = quantizers(orthogonal_reg_weight=2.0, commitment_weight=0.5)
    x = torch.randn(2, 48, DIM)
    theirs, own = call_alike(modules, 0, x, return_loss_breakdown=True)
    assert own[3]._fields == theirs[3]._fields
    assert_same(tuple(own[3]), tuple(theirs[3]))
    assert own[3].orthogonal_reg > 0 and own[3].commitment > 0


@pytest.mark.parametrize("name", ["default", "heads", "separate heads", "cosine", "projections"])
@pytest.mark.parametrize("images", [True, False])
def test_same_lookups(name: str, images: bool) -> None:
    modules = tuple(m.eval() for m in quantizers(accept_image_fmap=images, **OPTIONS[name]))
    x = torch.randn(2, 48, DIM)
    quantized, indices, _ = modules[1](as_images(x) if images else x)
    codes = [module.get_codes_from_indices(indices) for module in modules]
    assert torch.equal(*codes)
    if not (images and name == "projections"):  # there the package fails
        outputs = [module.get_output_from_indices(indices) for module in modules]
        assert torch.equal(*outputs)
    if name != "heads":  # there the package does not join what it looks up
        torch.testing.assert_close(modules[1].get_output_from_indices(indices), quantized)
    assert torch.equal(modules[0].codebook, modules[1].codebook)


GIVEN = {
    name: OPTIONS[name]
    for name in ("default", "heads", "heads, projections", "separate heads", "cosine")
} | {"cosine, heads": {"use_cosine_sim": True, "heads": 2, "codebook_dim": 8}}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("training", [True, False])
def test_same_cross_entropy_of_given_indices(name: str, training: bool) -> None:
    # Frozen: where the codebook moves in between, the package differentiates by the new one.
    modules = tuple(m.train(training) for m in quantizers(**GIVEN[name], freeze_codebook=True))
    x = torch.randn(2, 48, DIM, requires_grad=True)
    heads = GIVEN[name].get("heads", 1)
    indices = torch.randint(CODES, (2, 48, heads)).squeeze(-1)
    indices[0, :5] = -1
    theirs, own = call_alike(modules, 0, x, indices=indices)
    assert_same(own, theirs)
    assert_same(torch.autograd.grad(own[1], x), torch.autograd.grad(theirs[1], x))


@pytest.mark.parametrize("name", ["default", "cosine"])
def test_cross_entropy_of_given_indices_in_every_precision(name: str) -> None:
    """Of fp64 in fp64; under autocast in fp32, where the package has it in bf16 on the CPU."""
    theirs, own = (module.eval() for module in quantizers(**OPTIONS[name]))
    x, indices = torch.randn(2, 48, DIM), torch.randint(CODES, (2, 48))
    expected = theirs(x, indices=indices)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(own(x, indices=indices)[1], expected)
    wide = own.double()(x.double(), indices=indices)[1]
    assert wide.dtype == torch.float64
    if name == "cosine":
        scores = nn.functional.normalize(x.double(), dim=-1) @ own.codebook.T
    else:
        scores = -(x.double().unsqueeze(-2) - own.codebook).norm(dim=-1)
    entropy = nn.functional.cross_entropy(scores.flatten(0, 1), indices.flatten())
    assert_same(wide, entropy, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_state_goes_both_ways(name: str) -> None:
    first, second = quantizers(0, **OPTIONS[name]), quantizers(1, **OPTIONS[name])
    x = torch.randn(2, 48, DIM)
    call_alike(first, 0, x)
    second[1].load_state_dict(first[0].state_dict())
    second[0].load_state_dict(first[1].state_dict())
    assert_same_state((second[0], first[0]))
    for trained, loaded in zip(first, reversed(second), strict=True):
        results = call_alike((trained.eval(), loaded.eval()), 0, x)
        assert_same(results[1], results[0])


def test_a_loaded_state_decides_on_kmeans() -> None:
    """Placed codes are not placed again, codes that were never placed are."""
    _, fresh = quantizers(kmeans_init=True, kmeans_iters=2)
    theirs, trained = quantizers(1)
    fresh.load_state_dict(theirs.state_dict())
    fresh.eval()(torch.randn(2, 48, DIM))
    assert torch.equal(fresh.codebook, theirs.codebook)

    trained.load_state_dict(quantizers(kmeans_init=True)[0].state_dict())
    assert not trained.codebook.any()
    trained.eval()(torch.randn(2, 48, DIM))
    assert trained.codebook.any() and trained._codebook.initted


@pytest.mark.parametrize("way", ["averaged", "set"])
def test_codes_that_came_with_their_buffers_are_not_placed_again(way: str) -> None:
    """As weight averaging copies buffers, and as some loaders put others in their place."""
    _, module = quantizers(kmeans_init=True, kmeans_iters=2)
    averaged = AveragedModel(module)
    module(torch.randn(2, 48, DIM))
    if way == "averaged":
        averaged.update_parameters(module)
    else:
        for name, buffer in module._codebook.named_buffers():
            setattr(averaged.module._codebook, name, buffer.clone())
    averaged.eval()(torch.randn(2, 48, DIM))
    assert module.codebook.any()
    assert torch.equal(averaged.module.codebook, module.codebook)


def test_codes_that_were_placed_in_other_buffers_are_placed_again() -> None:
    """functional_call runs k-means on the buffers that it is given: the module's stay empty."""
    modules = quantizers(kmeans_init=True, kmeans_iters=2)
    x = torch.randn(2, 48, DIM)
    for module in modules:
        given = {name: buffer.clone() for name, buffer in module.named_buffers()}
        torch.func.functional_call(module, given, (x,))
        assert given["_codebook.initted"] and not module._codebook.initted
    theirs, own = call_alike(modules, 0, x)
    assert_same(own, theirs)
    assert modules[1]._codebook.initted
    assert_same_state(modules)


def test_a_module_between_codebook_and_codes() -> None:
    modules = quantizers()
    torch.manual_seed(0)
    bridges = [nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)]
    bridges[1].load_state_dict(bridges[0].state_dict())
    modules = tuple(
        type(module)(dim=DIM, codebook_size=CODES, vq_bridge=bridge)
        for module, bridge in zip(modules, bridges, strict=True)
    )
    modules[1].load_state_dict(modules[0].state_dict())
    assert_same_training(modules, DIM, steps=4)


def test_a_module_between_codebook_and_codes_under_autocast() -> None:
    _, module = quantizers(vq_bridge=nn.Linear(DIM, DIM))
    x = torch.randn(2, 48, DIM)
    expected = module.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(module(x), expected, rtol=0, atol=0)
    # Lookups have the codes before it, as the package's.
    assert torch.equal(module.get_output_from_indices(expected[1]), module.codebook[expected[1]])
