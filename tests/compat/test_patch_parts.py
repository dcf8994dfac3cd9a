"""patch on quantisers made of modules: each stays the object it is, with all that hangs on it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import vector_quantize_pytorch as peer
from diffusers.models.autoencoders.vae import VectorQuantizer
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


class Doubled(nn.Embedding):
    """Looks up another thing than its weight."""

    def forward(self, indices):
        return 2 * super().forward(indices)


class Adapted(nn.Module):
    """As adapters wrap an embedding: its weight is still to be had."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self):
        return self.base.weight

    def forward(self, indices):
        return 2 * self.base(indices)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda embedding: Doubled(16, 8), "its embedding is a Doubled"),
        (Adapted, "its embedding is a Adapted"),
        (lambda embedding: nn.Embedding(16, 8, max_norm=0.1), "max_norm = 0.1"),
        (lambda embedding: nn.Embedding(16, 8, padding_idx=0), "padding_idx = 0"),
        (lambda embedding: nn.Embedding(16, 8, scale_grad_by_freq=True), "scale_grad_by_freq = T"),
        (lambda embedding: nn.Embedding(16, 8, sparse=True), "sparse = True"),
    ],
)
@pytest.mark.parametrize("build", [quantize.VectorQuantizer2, VectorQuantizer])
def test_an_embedding_that_looks_up_something_else_is_left(build, change, reason: str) -> None:
    model = build(16, 8, 0.25)
    model.embedding = change(model.embedding)
    assert reason in vqgan_fast.patch(model).left[""][1]
    assert type(model) is build


def test_a_parametrized_embedding_is_read_as_its_weight() -> None:
    model, x = quantize.VectorQuantizer2(16, 8, 0.25), latents(2, 8, 3, 3)
    nn.utils.parametrizations.weight_norm(model.embedding)
    expected = model(x)[0]
    vqgan_fast.patch(model, strict=True)
    torch.testing.assert_close(model(x)[0], expected)


class Loud(peer.vector_quantize_pytorch.Codebook):
    def forward(self, *args, **kwargs):
        quantized, *rest = super().forward(*args, **kwargs)
        return 2 * quantized, *rest


def transform_thrice(model: nn.Module) -> None:
    model.layers[1]._codebook.transform_input = lambda x: 3 * x


def give_codes(model: nn.Module) -> None:
    model.layers[1].get_codes_from_indices = lambda indices: indices


def give_outputs(model: nn.Module) -> None:
    model.get_output_from_indices = lambda indices: indices


def be_loud(model: nn.Module) -> None:
    model.layers[1]._codebook.__class__ = Loud


def expire_nothing(model: nn.Module) -> None:
    model.layers[1]._codebook.expire_codes_ = lambda *_, **__: None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (be_loud, "its _codebook is a Loud"),
        (transform_thrice, "transform_input was replaced on the instance"),
        (expire_nothing, "its expire_codes_ was replaced on the instance"),
        (give_codes, "its get_codes_from_indices was replaced on the instance"),
        (give_outputs, "its get_output_from_indices was replaced on the instance"),
    ],
)
def test_what_was_changed_on_a_module_is_left(change, reason: str) -> None:
    model = residual()
    change(model)
    assert reason in vqgan_fast.patch(model).left[""][1]
    assert type(model) is peer.ResidualVQ


def test_options_that_ours_refuses_leave_the_rest_to_be_swapped() -> None:
    """The package takes them, or they were changed since."""
    heads = single(heads=2, codebook_dim=4, separate_codebook_per_head=True)
    heads.orthogonal_reg_active_codes_only = True
    bad = single()
    bad.learnable_codebook = True
    report = vqgan_fast.patch(nn.ModuleList([heads, bad, single()]))
    assert set(report.swapped) == {"0", "2"}
    assert "learnable_codebook needs ema_update=False" in report.left["1"][1]
    assert type(bad) is peer.VectorQuantize
