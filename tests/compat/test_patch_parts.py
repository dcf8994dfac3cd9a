"""patch on quantisers made of modules: each stays the object it is, with all that hangs on it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import vector_quantize_pytorch as peer
from parity import latents
from taming.modules.vqvae import quantize
from torch import nn

import vqgan_fast
from vqgan_fast.compat import vector_quantize_pytorch as ours

X = latents(2, 12, 8)


def residual(**options) -> nn.Module:
    torch.manual_seed(0)
    return peer.ResidualVQ(dim=8, num_quantizers=3, codebook_size=16, **options)


def single(**options) -> nn.Module:
    torch.manual_seed(0)
    return peer.VectorQuantize(dim=8, codebook_size=16, **options)


class Model(nn.Module):
    """A stage of its quantiser has a second name, the first in the order of names if asked."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        stages = residual()
        if first:
            self.stage = stages.layers[1]
        self.stages = stages
        self.stage = stages.layers[1]


@pytest.mark.parametrize("first", [True, False])
def test_a_stage_in_two_places_stays_one_module(first: bool) -> None:
    model = Model(first)
    parts = dict(model.named_modules(remove_duplicate=False))
    report = vqgan_fast.patch(model, strict=True)
    assert set(report.swapped) == {"stages", "stage"}
    assert dict(model.named_modules(remove_duplicate=False)) == parts
    assert isinstance(model.stage, ours.VectorQuantize)
    model.double()  # new buffers: two modules would part here
    before = model.stage.codebook.clone()
    model.stages(X.double())
    assert not torch.equal(model.stage.codebook, before)
    assert vqgan_fast.unpatch(model) == (["stage", "stages"] if first else ["stages"])
    assert type(model.stage) is type(model.stages.layers[0]) is peer.VectorQuantize
    assert dict(model.named_modules(remove_duplicate=False)) == parts
    assert torch.equal(model.stages.layers[1].codebook, model.stage.codebook)
    model.float().stages(X)


def test_a_stage_that_was_patched_before() -> None:
    model = residual()
    vqgan_fast.patch(model.layers[1])
    assert list(vqgan_fast.patch(model).swapped) == [""]
    model(X)
    vqgan_fast.unpatch(model)
    assert {type(layer) for layer in model.layers} == {peer.VectorQuantize}
    model(X)


def test_hooks_of_parts_and_their_modes() -> None:
    model = residual(shared_codebook=True)
    calls = []
    model.layers[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    model.layers[1].register_forward_hook(lambda *_: calls.append("after"))
    model.layers[2].eval()
    modes = [part.training for part in model.modules()]
    vqgan_fast.patch(model, strict=True)
    assert [part.training for part in model.modules()] == modes
    assert model.layers[0]._codebook is model.layers[2]._codebook
    model(X)
    assert calls == ["before", "after"]
    model.layers[1].train(False)
    vqgan_fast.unpatch(model)
    assert not model.layers[1].training
    assert model.layers[0].training
    assert model.layers[0]._codebook is model.layers[2]._codebook
    model(X)
    assert calls == ["before", "after"] * 2


@pytest.mark.parametrize("build", [single, residual], ids=["single", "residual"])
def test_backward_hooks(build) -> None:
    """torch notes on the module of which kind they are."""
    model = build()
    calls = []
    model.register_full_backward_hook(lambda *_: calls.append("early"))
    vqgan_fast.patch(model)
    model(X.clone().requires_grad_())[0].sum().backward()
    assert calls == ["early"]
    late = build()
    vqgan_fast.patch(late)
    late.register_full_backward_hook(lambda *_: calls.append("late"))
    vqgan_fast.unpatch(late)
    late(X.clone().requires_grad_())[0].sum().backward()
    assert calls == ["early", "late"]


def test_what_users_hang_on_a_module_stays() -> None:
    model = residual()
    model.tag, model.layers[0].tag = "outer", "inner"
    model.layers[0].probe = nn.Linear(2, 3)
    model.layers[0]._codebook.register_buffer("seen", torch.zeros(16), persistent=False)
    model.layers[1].scale = nn.Parameter(torch.ones(2))
    tensors = [name for name, _ in model.named_parameters()]
    state = list(model.state_dict())
    attributes = {name for name in vars(model.layers[0]) if not name.startswith("_")}
    vqgan_fast.patch(model, strict=True)
    assert (model.tag, model.layers[0].tag) == ("outer", "inner")
    assert attributes <= set(vars(model.layers[0]))
    assert [name for name, _ in model.named_parameters()] == tensors
    assert list(model.state_dict()) == state
    model.layers[0].later = nn.Linear(3, 2)
    model(X)
    vqgan_fast.unpatch(model)
    assert model.layers[0].probe(torch.ones(2)).shape == (3,)
    assert model.layers[0].later(torch.ones(3)).shape == (2,)
    assert "layers.0._codebook.seen" not in model.state_dict()
    model(X)


def test_copies_of_what_was_patched() -> None:
    model = residual(shared_codebook=True)
    vqgan_fast.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.layers[0]._codebook is copied.layers[2]._codebook
        copied(X)
        vqgan_fast.unpatch(copied)
        assert type(copied.layers[0]) is peer.VectorQuantize
        assert not torch.equal(copied.layers[0].codebook, model.layers[0].codebook)
        copied(X)


class Stage(peer.VectorQuantize):
    """With methods of its own, for all that is known."""


def test_parts_that_cannot_be_swapped() -> None:
    model = residual()
    model.layers[1] = Stage(dim=8, codebook_size=16)
    assert "a stage is a subclass, Stage" in vqgan_fast.patch(model).left[""][1]
    assert type(model.layers[0]) is peer.VectorQuantize
    model = residual()
    model.layers[1].compile(backend="eager")
    with pytest.raises(RuntimeError, match=r"patch the model before torch.compile; nothing"):
        vqgan_fast.patch(model)
    assert type(model.layers[0]) is peer.VectorQuantize


@pytest.mark.parametrize(
    "register",
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
    ],
)
def test_hooks_on_an_embedding_that_is_not_called_are_not_lost(register) -> None:
    model = quantize.VectorQuantizer2(16, 8, 0.25)
    register(model.embedding, lambda *_: None)
    assert "hooks on its embedding" in vqgan_fast.patch(model).left[""][1]
    assert type(model) is quantize.VectorQuantizer2
