"""Modules of vector-quantize-pytorch replaced in place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import vector_quantize_pytorch as peer
from torch import Tensor, nn
from vq_pytorch_pairs import (
    assert_same,
    assert_same_state,
    assert_same_training,
    call_alike,
    nearest_by_fp64,
)

import vqgan_fast
from vqgan_fast.compat import vector_quantize_pytorch as ours
from vqgan_fast.compat.vector_quantize_pytorch import SWAPS


@pytest.fixture(autouse=True)
def same_search(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest_by_fp64(monkeypatch)


def class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def swapped(module: nn.Module) -> nn.Module:
    """The module, or what replaces it or parts of it."""
    if class_name(module) in SWAPS:
        return SWAPS[class_name(module)](module)
    for name, child in module.named_children():
        setattr(module, name, swapped(child))
    return module


def sequence(dim: int = 256) -> Tensor:
    return torch.randn(1, 128, dim)


def test_random_projections() -> None:
    """Its quantiser is a part of it; it also asks for a cross-entropy."""
    original = peer.RandomProjectionQuantizer(
        dim=64, num_codebooks=4, codebook_dim=16, codebook_size=128
    )
    module = swapped(copy.deepcopy(original))
    assert isinstance(module.vq, ours.VectorQuantize)
    x = sequence(64)
    theirs, own = call_alike((original, module), 0, x)
    assert torch.equal(own, theirs)
    theirs, own = call_alike((original, module), 0, x, indices=own)
    assert_same(own, theirs)


OPTIONS = {
    "default": {},
    "cosine, heads": {"use_cosine_sim": True, "heads": 2, "codebook_dim": 4},
    "layer norm": {"codebook_dim": 6, "layernorm_after_project_in": True},
    "k-means": {"kmeans_init": True, "kmeans_iters": 3},
    "learned": {"learnable_codebook": True, "ema_update": False, "sync_update_v": 0.2},
    "all else": {
        "decay": 0.7,
        "eps": 1e-3,
        "threshold_ema_dead_code": 1,
        "commitment_weight": 0.4,
        "orthogonal_reg_weight": 0.5,
        "orthogonal_reg_max_codes": 9,
        "rotation_trick": False,
    },
    "directional": {
        "directional_reparam": True,
        "threshold_ema_dead_code": 1,
        "directional_reparam_variance": 0.1,
    },
    "its own optimiser": {
        "learnable_codebook": True,
        "ema_update": False,
        "in_place_codebook_optimizer": partial(torch.optim.SGD, lr=0.5),
    },
}
NOT_OF_STAGES = ("cosine, heads", "layer norm")
PLACES = [("alone", name) for name in OPTIONS]
PLACES += [("in stages", name) for name in OPTIONS if name not in NOT_OF_STAGES]


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize(("place", "name"), PLACES)
def test_swapped_modules_train_alike(place: str, name: str, used: bool) -> None:
    """Those that have seen latents, whose k-means has run, and those that have not."""
    options = {"dim": 16, "codebook_size": 32, **OPTIONS[name]}
    make, rows = peer.VectorQuantize, (2, 48)
    if place == "in stages":
        make = partial(peer.ResidualVQ, num_quantizers=3)
        if name == "k-means":
            # A cluster of one latent leaves rounding to the next stage, not the same in both.
            options["codebook_size"], rows = 8, (2, 300)
    torch.manual_seed(0)
    original = make(**options)
    if used:
        original(torch.randn(*rows, 16))
    module = swapped(copy.deepcopy(original))
    assert_same_state((original, module), atol=0)
    assert_same_training((original, module), 16, steps=4, rows=rows)


@pytest.mark.parametrize(
    "original",
    [
        peer.VectorQuantize(dim=16, codebook_size=32, codebook_dim=4),
        peer.ResidualVQ(dim=16, num_quantizers=3, codebook_size=32, codebook_dim=8),
        peer.ResidualVQ(dim=16, num_quantizers=3, codebook_size=32, shared_codebook=True),
        peer.GroupedResidualVQ(dim=16, num_quantizers=3, codebook_size=32, groups=2),
        peer.SimVQ(dim=16, codebook_size=32),
    ],
    ids=lambda module: type(module).__name__,
)
def test_tensors_and_projections_are_shared(original: nn.Module) -> None:
    state = torch.random.get_rng_state()
    module = swapped(original.eval())
    assert torch.equal(torch.random.get_rng_state(), state)
    for tensors in ("named_parameters", "named_buffers"):
        theirs = dict(getattr(original, tensors)(remove_duplicate=False))
        own = dict(getattr(module, tensors)(remove_duplicate=False))
        assert own.keys() == theirs.keys()
        assert all(tensor is theirs[name] for name, tensor in own.items())
    assert not any(part.training for part in module.modules())
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    copy.deepcopy(module)(torch.randn(2, 5, 16))


def test_a_hook_on_a_codebook_is_not_lost() -> None:
    module = peer.VectorQuantize(dim=8, codebook_size=4)
    module._codebook.register_forward_hook(lambda *_: None)
    with pytest.raises(NotImplementedError, match="hooks on its _codebook"):
        swapped(module)


# Modules, a part of each whose attributes are taken away one by one, and some that must be missed.
PARTS = {
    "quantizer": (
        lambda: peer.VectorQuantize(dim=8, codebook_size=4),
        "",
        {"_codebook", "heads", "in_place_codebook_optimizer", "project_in", "project_out"},
    ),
    "codebook": (
        lambda: peer.VectorQuantize(dim=8, codebook_size=4),
        "_codebook",
        {"use_ddp", "kmeans_all_reduce_fn", "gumbel_sample", "reset_cluster_size", "vq_bridge"},
    ),
    "stages": (
        lambda: peer.ResidualVQ(dim=8, num_quantizers=2, codebook_size=4),
        "",
        {"beam_size", "implicit_neural_codebook", "codebook_sizes", "quant_grad_frac", "layers"},
    ),
    "codebook of a stage": (
        lambda: peer.ResidualVQ(dim=8, num_quantizers=2, codebook_size=4),
        "layers.1._codebook",
        {"initted", "cluster_size", "embed", "embed_avg", "decay"},
    ),
    "groups": (
        lambda: peer.GroupedResidualVQ(dim=8, num_quantizers=2, codebook_size=4, groups=2),
        "",
        {"dim", "groups", "accept_image_fmap", "rvqs"},
    ),
    "sim": (
        lambda: peer.SimVQ(dim=8, codebook_size=4),
        "",
        {"code_transform", "frozen_codebook", "input_to_quantize_commit_loss_weight"},
    ),
}


def attributes_of(module: nn.Module) -> set[str]:
    """Those that its class has given it, with parameters, buffers and children."""
    own = set(vars(module)) - set(vars(nn.Module()))
    return own | {*module._parameters, *module._buffers, *module._modules}


@pytest.mark.parametrize("name", PARTS)
def test_a_module_of_another_release(name: str) -> None:
    """Whatever it lacks, `patch` does without or says so, and never fails."""
    make, path, needed = PARTS[name]
    missed = set()
    for attribute in attributes_of(make().get_submodule(path)):
        module = make()
        delattr(module.get_submodule(path), attribute)
        for _, reason in vqgan_fast.patch(module).left.values():
            assert f"it has no attribute {attribute}: a release that is not known" in reason
            missed.add(attribute)
    assert needed <= missed


def test_a_sampling_function_of_another_release() -> None:
    module = peer.VectorQuantize(dim=8, codebook_size=4)
    module._codebook.gumbel_sample = partial(
        module._codebook.gumbel_sample.func, straight_through=False
    )
    with pytest.raises(NotImplementedError, match=r"gumbel_sample=.* is not covered"):
        swapped(module)


@pytest.mark.parametrize(
    ("option", "original"),
    [
        ("affine_param", lambda: peer.VectorQuantize(dim=8, codebook_size=4, affine_param=True)),
        (
            "stochastic_sample_codes",
            lambda: peer.ResidualVQ(
                dim=8, num_quantizers=2, codebook_size=4, stochastic_sample_codes=True
            ),
        ),
        (
            "codebook_diversity_loss_weight",
            lambda: peer.VectorQuantize(dim=8, codebook_size=4, codebook_diversity_loss_weight=1.0),
        ),
        (
            "straight_through",
            lambda: peer.VectorQuantize(
                dim=8, codebook_size=4, straight_through=True, rotation_trick=False
            ),
        ),
        (
            "beam_size",
            lambda: peer.ResidualVQ(dim=8, num_quantizers=2, codebook_size=4, beam_size=2),
        ),
        (
            "implicit_neural_codebook",
            lambda: peer.GroupedResidualVQ(
                dim=8, num_quantizers=2, codebook_size=4, implicit_neural_codebook=True
            ),
        ),
    ],
)
def test_what_is_not_covered_is_refused_and_left_alone(option: str, original: Callable) -> None:
    module = original()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(NotImplementedError, match=option):
        swapped(module)
    for name, now in module.state_dict().items():  # the peer leaves some uninitialised: may be NaN
        torch.testing.assert_close(now, before[name], rtol=0, atol=0, equal_nan=True)
    module(torch.randn(2, 5, 8))
