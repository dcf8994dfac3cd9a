"""The searches of transformers' audio codecs against the package itself."""

from __future__ import annotations

import copy
import importlib
import importlib.machinery
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from parity import assert_same, latents, pair, step
from torch import nn
from transformers.models.dac import modeling_dac
from transformers.models.encodec import modeling_encodec
from transformers.models.mimi import modeling_mimi
from transformers.models.wavtokenizer import modeling_wavtokenizer
from transformers.models.xcodec import modeling_xcodec

import vqgan_fast
from vqgan_fast.compat import transformers

K, D, C = 64, 8, 12
CONFIG = SimpleNamespace(
    codebook_size=K, codebook_dim=D, hidden_size=C, num_quantizers=3, frame_rate=75, n_codebooks=3,
    quantizer_dropout=0.0,
)  # fmt: skip
EUCLIDEAN = [
    (transformers.EncodecEuclideanCodebook, modeling_encodec.EncodecEuclideanCodebook),
    (transformers.EncodecEuclideanCodebook, modeling_wavtokenizer.WavTokenizerEuclideanCodebook),
    (transformers.XcodecEuclideanCodebook, modeling_xcodec.XcodecEuclideanCodebook),
    (transformers.MimiEuclideanCodebook, modeling_mimi.MimiEuclideanCodebook),
]
IDS = ["encodec", "wavtokenizer", "xcodec", "mimi"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("ours_class", "peer_class"), EUCLIDEAN, ids=IDS)
def test_search(ours_class, peer_class, seed: int) -> None:
    ours, peer = pair(ours_class(CONFIG), peer_class(CONFIG), seed)
    if hasattr(ours, "cluster_usage"):
        usage = latents(K, seed=3).abs()
        usage[:3] = 0  # fewer than epsilon
        for module in (ours, peer):
            module.load_state_dict({**module.state_dict(), "cluster_usage": usage})
    hidden = latents(2, D, 30, seed=seed + 5).permute(
        0, 2, 1
    )  # strided, as the codecs hand it over
    indices = ours.encode(hidden)
    assert torch.equal(indices, peer.encode(hidden))
    assert torch.equal(ours.quantize(hidden.reshape(-1, D)), indices.flatten())
    assert torch.equal(ours.decode(indices), peer.decode(indices))


def test_mimi_follows_its_state() -> None:
    ours = transformers.MimiEuclideanCodebook(CONFIG)
    assert (ours.embed == 0).all()
    state = {**ours.state_dict(), "embed_sum": latents(K, D)}
    ours.load_state_dict(state)
    assert torch.equal(ours.embed, state["embed_sum"])
    assert ours.double().embed.dtype == torch.float64
    with pytest.raises(ValueError, match=rf"embed_ind must lie in \[0, {K}\), got {K}"):
        ours.decode(torch.tensor([K]))


def test_mimi_is_given_back_with_what_was_loaded_meanwhile() -> None:
    model = residual_stacks()["mimi"].eval()
    codebook = model.layers[0].codebook
    assert (codebook.embed == 0).all()  # the peer keeps the quotient from now on
    vqgan_fast.patch(model)
    state = {k: latents(*v.shape) if "embed_sum" in k else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    vqgan_fast.unpatch(model)
    assert torch.equal(codebook.embed, state["layers.0.codebook.embed_sum"])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dac(training: bool, seed: int) -> None:
    ours, peer = pair(
        transformers.DacVectorQuantize(CONFIG), modeling_dac.DacVectorQuantize(CONFIG), seed
    )
    ours.train(training), peer.train(training)

    def read(output):
        quantized, commitment, codebook, indices, projected = output
        return quantized.contiguous(), [commitment, codebook, projected.square().mean()], indices

    z = latents(2, C, 20, seed=seed + 5)
    assert_same(step(ours, z, read), step(peer, z, read))
    codes, indices = ours.decode_latents(latents(2, D, 9))
    expected, expected_indices = peer.decode_latents(latents(2, D, 9))
    assert torch.equal(indices, expected_indices)
    assert torch.equal(codes, expected)


class Offloading:
    """Does as accelerate's hooks: weights are there while their module runs, and meta otherwise."""

    def __init__(self, module: nn.Module) -> None:
        self.weight = module.weight
        module._hf_hook = self
        forward = module.forward
        module.forward = lambda *args: self.post_forward(
            module, forward(*self.pre_forward(module, *args)[0])
        )
        self.post_forward(module, None)

    def pre_forward(self, module: nn.Module, *args: object) -> tuple[tuple, dict]:
        module.weight = self.weight
        return args, {}

    def post_forward(self, module: nn.Module, output: object) -> object:
        module.weight = nn.Parameter(self.weight.detach().to("meta"))
        return output


@pytest.mark.parametrize("patched", [False, True])
def test_dac_with_a_codebook_that_is_offloaded(patched: bool) -> None:
    model = modeling_dac.DacVectorQuantize(CONFIG)
    z = latents(2, C, 20)
    expected = model(z)
    if patched:
        vqgan_fast.patch(model, strict=True)
    Offloading(model.codebook)
    torch.testing.assert_close(model(z), expected)
    assert model.codebook.weight.is_meta


def residual_stacks() -> dict[str, nn.Module]:
    mimi = SimpleNamespace(**vars(CONFIG), vector_quantization_hidden_dimension=C)
    return {
        "encodec": modeling_encodec.EncodecResidualVectorQuantizer(CONFIG),
        "mimi": modeling_mimi.MimiResidualVectorQuantizer(mimi),
        "xcodec": modeling_xcodec.XcodecResidualVectorQuantization(CONFIG),
        "dac": modeling_dac.DacResidualVectorQuantizer(CONFIG),
    }


def higgs(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Its module imports torchaudio, which its quantiser does not need."""
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    monkeypatch.setitem(sys.modules, "torchaudio", stand_in)
    name = "higgs_audio_v2_tokenizer"
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    return module.HiggsAudioV2TokenizerResidualVectorQuantization(CONFIG)


@pytest.mark.parametrize("name", ["encodec", "mimi", "higgs", "xcodec", "dac"])
def test_patched_residual_stages(name: str, monkeypatch) -> None:
    model = (higgs(monkeypatch) if name == "higgs" else residual_stacks()[name]).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if "embed" in key or "codebook" in key:
            value.normal_(generator=generator)
    z = latents(2, C if name in ("dac", "higgs") else D, 25)

    def run():
        if name == "dac":
            return model(z)[:2]
        codes = model.encode(z)
        return model.decode(codes.transpose(0, 1) if name == "mimi" else codes), codes

    quantized, codes = run()
    report = vqgan_fast.patch(model, strict=True)
    assert len(report.swapped) == 3
    got, got_codes = run()
    assert torch.equal(got_codes, codes)
    torch.testing.assert_close(got, quantized)
    vqgan_fast.unpatch(model)
    assert torch.equal(run()[1], codes)


@pytest.mark.parametrize(
    "build",
    [
        lambda: transformers.EncodecEuclideanCodebook(CONFIG),
        lambda: transformers.DacVectorQuantize(CONFIG),
    ],
    ids=["encodec", "dac"],
)
def test_compile(build) -> None:
    torch.manual_seed(0)
    ours = build()
    ours.state_dict().get("embed", torch.empty(0)).normal_()
    call = ours if hasattr(ours, "in_proj") else ours.encode
    z = latents(2, C, 20) if hasattr(ours, "in_proj") else latents(2, 20, D)
    compiled = torch.compile(copy.copy(call), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), call(z))
