"""patch and unpatch on models of the peers, after loading, in DDP, around torch.compile."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from diffusers.models.autoencoders.vq_model import VQModel
from parity import latents, remap_file
from taming.modules.vqvae import quantize
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEVectorQuantizer

import vqgan_fast
from vqgan_fast.compat import taming

K, D = 32, 4
TAMING = "taming.modules.vqvae.quantize"


class Copied(quantize.VectorQuantizer2):
    """A class of someone's own code, the same as the reference's."""


class Autoencoder(nn.Module):
    """Two quantisers, one of them in two places, and one that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, D, 1)
        self.first = quantize.VectorQuantizer2(K, D, 0.25)
        self.stack = nn.ModuleDict({"second": quantize.VectorQuantizer(K, D, 0.25)})
        self.again = self.first
        self.copied = Copied(K, D, 0.25)

    def forward(self, x):
        z_q, loss, _ = self.first(self.before(x))
        again, more, _ = self.stack["second"](z_q)
        return again, loss + more


@pytest.fixture
def model() -> Autoencoder:
    model = Autoencoder()
    for module in (model.first, model.stack["second"]):
        module.embedding.weight.data.normal_()
    return model


def losses(model: nn.Module) -> list[torch.Tensor]:
    """Three steps of training a copy of nothing: the model itself."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    told = []
    for i in range(3):
        out, loss = model(latents(2, 3, 5, 5, seed=i))
        total = loss + out.square().mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        told.append(total.detach())
    return told


def test_report_and_numbers(model) -> None:
    expected = losses(copy.deepcopy(model))
    report = vqgan_fast.patch(model)
    assert report.swapped == {
        "first": f"{TAMING}.VectorQuantizer2",
        "again": f"{TAMING}.VectorQuantizer2",
        "stack.second": f"{TAMING}.VectorQuantizer",
    }
    assert list(report.left) == ["copied"]
    assert "a subclass of" in report.left["copied"][1]
    assert str(report).splitlines()[0] == "swapped 3 quantiser(s), left 1"
    assert f"swapped  stack.second: {TAMING}.VectorQuantizer" in str(report)
    assert "left     copied: " in str(report)
    assert isinstance(model.first, taming.VectorQuantizer2)
    assert model.again is model.first
    torch.testing.assert_close(losses(model), expected, rtol=1e-5, atol=1e-6)


def test_a_report_of_nothing_tells_of_also() -> None:
    assert str(vqgan_fast.patch(torch.nn.Linear(2, 2))).splitlines() == [
        "swapped 0 quantiser(s), left 0",
        "  a class of your own that copies a known one is named with `also`",
    ]


def test_modules_stay_what_they_are(model) -> None:
    first, parameters, state = model.first, list(model.parameters()), model.state_dict()
    model.first.eval()
    calls = []
    handle = model.first.register_forward_hook(lambda *_: calls.append("before"))
    vqgan_fast.patch(model)
    assert model.first is first
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    assert not model.first.training
    assert model.training
    model.first.register_forward_hook(lambda *_: calls.append("after"))
    model(latents(1, 3, 2, 2))
    assert calls == ["before", "after"]
    handle.remove()
    model(latents(1, 3, 2, 2))
    assert calls == ["before", "after", "after"]
    repr(model)


def test_unpatch_keeps_what_was_learned(model) -> None:
    vqgan_fast.patch(model)
    losses(model)
    model.double().eval()
    weights = copy.deepcopy(model.state_dict())
    assert vqgan_fast.unpatch(model) == ["first", "stack.second"]
    assert type(model.first) is quantize.VectorQuantizer2
    assert not model.first.training
    assert model.first.embedding.weight.dtype == torch.float64
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    model(latents(1, 3, 2, 2).double())
    assert vqgan_fast.unpatch(model) == []
    assert len(vqgan_fast.patch(model).swapped) == 3


def rebuilt(peer: nn.Module, weight: nn.Parameter | None = None) -> nn.Module:
    """A replacement that shares the peer's tensors, not the dictionaries that hold them."""
    ours = taming.VectorQuantizer2(peer.n_e, peer.e_dim, peer.beta)
    ours.embedding.weight = peer.embedding.weight if weight is None else weight
    return ours


def test_replacements_that_were_built_anew(model, monkeypatch) -> None:
    monkeypatch.setitem(taming.SWAPS, f"{TAMING}.VectorQuantizer2", rebuilt)
    calls = []
    model.first.register_forward_hook(lambda *_: calls.append("hook"))
    model.eval()
    vqgan_fast.patch(model)
    assert not model.first.training
    model(latents(1, 3, 2, 2))
    assert calls == ["hook"]
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)  # other tensors, put into the replacement only
    model.train()
    vqgan_fast.unpatch(model)
    assert type(model.first) is quantize.VectorQuantizer2
    assert model.first.training
    assert (model.first.embedding.weight == 0).all()


def test_replacements_must_share_the_tensors(model, monkeypatch) -> None:
    swap = lambda peer: rebuilt(peer, nn.Parameter(torch.zeros(K, D)))  # noqa: E731
    monkeypatch.setitem(taming.SWAPS, f"{TAMING}.VectorQuantizer2", swap)
    with pytest.raises(RuntimeError, match="does not share its tensors"):
        vqgan_fast.patch(model)
    assert type(model.stack["second"]) is quantize.VectorQuantizer


def test_patching_twice_changes_nothing(model) -> None:
    vqgan_fast.patch(model)
    assert vqgan_fast.patch(model).swapped == {}
    vqgan_fast.unpatch(model)
    assert type(model.first) is quantize.VectorQuantizer2


def test_a_quantiser_itself() -> None:
    quantizer = quantize.VectorQuantizer2(K, D, 0.25)
    report = vqgan_fast.patch(quantizer, strict=True)
    assert list(report.swapped) == [""]
    assert isinstance(quantizer, taming.VectorQuantizer2)
    vqgan_fast.unpatch(quantizer)
    assert type(quantizer) is quantize.VectorQuantizer2


def test_after_loading_and_before_copying(model) -> None:
    expected = losses(copy.deepcopy(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    vqgan_fast.patch(loaded)
    file = io.BytesIO()
    torch.save(loaded, file)
    file.seek(0)
    for patched in (copy.deepcopy(loaded), torch.load(file, weights_only=False)):
        torch.testing.assert_close(losses(patched), expected, rtol=1e-5, atol=1e-6)
        vqgan_fast.unpatch(patched)
        assert type(patched.first) is quantize.VectorQuantizer2


def test_strict(model) -> None:
    with pytest.raises(NotImplementedError, match=r"strict=True\) changed nothing: .*copied"):
        vqgan_fast.patch(model, strict=True)
    assert type(model.first) is quantize.VectorQuantizer2
    with pytest.raises(
        ValueError, match=r"no known quantiser in torch\.nn\.modules\.linear\.Linear"
    ):
        vqgan_fast.patch(nn.Linear(2, 2), strict=True)
    assert vqgan_fast.patch(nn.Linear(2, 2)).swapped == {}


def test_subclasses_and_copies() -> None:
    model = nn.Sequential(Copied(K, D, 0.25))
    report = vqgan_fast.patch(model)
    assert "a subclass of taming.modules.vqvae.quantize.VectorQuantizer2" in report.left["0"][1]
    name = f"{Copied.__module__}.Copied"
    assert vqgan_fast.patch(model, also={name: f"{TAMING}.VectorQuantizer2"}).swapped == {"0": name}
    with pytest.raises(ValueError, match=r"also must name known classes .* got nowhere\.Nothing"):
        vqgan_fast.patch(model, also={name: "nowhere.Nothing"})


def test_replaced_forwards_are_left(model) -> None:
    """As accelerate's hooks replace them."""
    model.first.forward = model.first.forward
    report = vqgan_fast.patch(model)
    assert "forward was replaced on the instance" in report.left["first"][1]
    assert type(model.first) is quantize.VectorQuantizer2


def test_an_unknown_version_is_left(model) -> None:
    del model.first.legacy
    assert "no attribute legacy" in vqgan_fast.patch(model).left["first"][1]


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        vqgan_fast.patch("model.ckpt")
    with pytest.raises(TypeError, match="also must be a dict of class names, got list"):
        vqgan_fast.patch(nn.Linear(2, 2), also=["my_model.VectorQuantizer"])
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        vqgan_fast.unpatch("model.ckpt")


def test_compiled_models_are_refused(model) -> None:
    model.stack.compile(backend="eager")
    for compiled in (model, torch.compile(nn.Sequential(model), backend="eager")):
        with pytest.raises(RuntimeError, match=r"patch the model before torch.compile; nothing"):
            vqgan_fast.patch(compiled)
    assert type(model.first) is quantize.VectorQuantizer2
    assert type(model.stack["second"]) is quantize.VectorQuantizer


def test_a_function_compiled_around_the_model_is_compiled_again(model) -> None:
    model.copied = None
    graphs = []

    def backend(graph, _):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    compiled = torch.compile(lambda x: model(x), fullgraph=True, backend=backend)
    x = latents(2, 3, 5, 5)
    expected = compiled(x)
    vqgan_fast.patch(model)
    torch.testing.assert_close(compiled(x), expected)
    vqgan_fast.unpatch(model)
    torch.testing.assert_close(compiled(x), expected)
    ours = [any("vqgan_fast" in name for name in graph) for graph in graphs]
    assert ours[:2] == [False, True]


@pytest.mark.parametrize("change", [vqgan_fast.patch, vqgan_fast.unpatch])
def test_patching_in_the_middle_of_a_graph(model, change) -> None:
    if change is vqgan_fast.unpatch:
        vqgan_fast.patch(model)
    before = type(model.first)

    def step(x):
        change(model)
        return model.first(x)[0]

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="call them outside of compiled"):
        compiled(latents(2, D, 5, 5))
    assert type(model.first) is before


def test_compiling_afterwards(model) -> None:
    vqgan_fast.patch(model)
    model.copied = None
    expected = model(latents(2, 3, 5, 5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(latents(2, 3, 5, 5)), expected)


@pytest.mark.parametrize("wrapped", [False, True], ids=["before", "after"])
def test_distributed_data_parallel(model, wrapped: bool, tmp_path) -> None:
    model.copied = None
    expected = losses(copy.deepcopy(model))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        if wrapped:
            model = DistributedDataParallel(model)
            assert len(vqgan_fast.patch(model, strict=True).swapped) == 3
        else:
            vqgan_fast.patch(model, strict=True)
            model = DistributedDataParallel(model)
        torch.testing.assert_close(losses(model), expected, rtol=1e-5, atol=1e-6)
    finally:
        dist.destroy_process_group()


def test_diffusers_model() -> None:
    model = VQModel(
        block_out_channels=(32,), num_vq_embeddings=K, vq_embed_dim=D, latent_channels=D,
        norm_num_groups=8,
    ).eval()  # fmt: skip
    x = latents(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        report = vqgan_fast.patch(model, strict=True)
        got = model(x)
    assert list(report.swapped) == ["quantize"]
    torch.testing.assert_close(got.sample, expected.sample)
    torch.testing.assert_close(got.commit_loss, expected.commit_loss)


def test_gumbel(tmp_path) -> None:
    """It draws as before, and without the N x K numbers where that is asked for."""
    module = quantize.GumbelQuantize(D, D, 40, remap=remap_file(tmp_path), unknown_index="extra")
    z = latents(2, D, 5, 5)

    def drawn():
        torch.manual_seed(3)
        return module(z)

    expected = drawn()
    vqgan_fast.patch(module, strict=True)
    torch.testing.assert_close(drawn(), expected)
    module.draws_as_reference = False
    torch.testing.assert_close(drawn()[1], expected[1])
    vqgan_fast.unpatch(module)
    torch.testing.assert_close(drawn(), expected)


def test_transformers_quantizer() -> None:
    config = SimpleNamespace(num_embeddings=K, embed_dim=D)
    model = nn.ModuleDict({"quantize": ChameleonVQVAEVectorQuantizer(config)})
    z = latents(2, D, 5, 5)
    expected = model["quantize"](z)
    vqgan_fast.patch(model, strict=True)
    torch.testing.assert_close(model["quantize"](z), expected)
