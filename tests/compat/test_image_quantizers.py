"""The stand-ins for taming, diffusers and transformers against the packages themselves."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders import vae
from parity import (
    assert_same,
    differing_share,
    latents,
    losses_of_ten_steps,
    pair,
    remap_file,
    spread_codes,
    step,
)
from taming.modules.vqvae import quantize
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.chameleon import modeling_chameleon
from transformers.models.emu3 import modeling_emu3
from transformers.models.glm_image import modeling_glm_image
from transformers.models.janus import modeling_janus

from vqgan_fast.compat import diffusers, taming, transformers
from vqgan_fast.compat.taming.quantizers import usage_of

K, D = 40, 6
CONFIG = SimpleNamespace(num_embeddings=K, embed_dim=D, beta=0.3, num_patches=5, codebook_size=K)


def read_reference(output):
    z_q, loss, (_, _, indices) = output
    return z_q, [loss], indices


def read_first(output):
    z_q, loss, (perplexity, one_hot, indices) = output
    return z_q, [loss, perplexity, one_hot.square().sum()], indices


def read_transformers(output):
    z_q, loss, indices = output
    return z_q, [loss], indices


# name -> (ours, the peer's, arguments, what to read); each is compared in the same ways.
CASES = {
    "first": (taming.VectorQuantizer, quantize.VectorQuantizer, (K, D, 0.3), {}, read_first),
    "chameleon": (
        transformers.ChameleonVQVAEVectorQuantizer,
        modeling_chameleon.ChameleonVQVAEVectorQuantizer,
        (CONFIG,), {}, read_transformers,
    ),
    "glm_image": (
        transformers.GlmImageVQVAEVectorQuantizer,
        modeling_glm_image.GlmImageVQVAEVectorQuantizer,
        (CONFIG,), {}, read_transformers,
    ),
    "janus": (
        transformers.JanusVQVAEVectorQuantizer,
        modeling_janus.JanusVQVAEVectorQuantizer,
        (CONFIG,), {}, read_transformers,
    ),
}  # fmt: skip
for legacy in (True, False):
    for sane in (True, False):
        options = {"legacy": legacy, "sane_index_shape": sane}
        name = f"{'legacy' if legacy else 'fixed'}-{'bhw' if sane else 'flat'}"
        for peer, ours, theirs in (
            ("taming", taming.VectorQuantizer2, quantize.VectorQuantizer2),
            ("diffusers", diffusers.VectorQuantizer, vae.VectorQuantizer),
        ):
            CASES[f"{peer}-{name}"] = (ours, theirs, (K, D, 0.3), options, read_reference)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_one_step(case: str, seed: int, training: bool) -> None:
    ours_class, peer_class, args, kwargs, read = CASES[case]
    ours, peer = pair(ours_class(*args, **kwargs), peer_class(*args, **kwargs), seed)
    z = latents(3, D, 4, 5, seed=seed + 10)
    ours.train(training), peer.train(training)
    assert_same(step(ours, z, read), step(peer, z, read))


@pytest.mark.parametrize("case", CASES)
def test_ten_training_steps(case: str) -> None:
    ours_class, peer_class, args, kwargs, read = CASES[case]
    ours, peer = pair(ours_class(*args, **kwargs), peer_class(*args, **kwargs))
    told = [losses_of_ten_steps(module, D, read) for module in (ours, peer)]
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)
    assert (told[0][0] != told[0][-1]).any()


@pytest.mark.parametrize("unknown", ["random", "extra", 2])
@pytest.mark.parametrize("sane", [True, False])
@pytest.mark.parametrize(
    ("ours_class", "peer_class"),
    [
        (taming.VectorQuantizer2, quantize.VectorQuantizer2),
        (diffusers.VectorQuantizer, vae.VectorQuantizer),
    ],
    ids=["taming", "diffusers"],
)
def test_remap(ours_class, peer_class, sane: bool, unknown, tmp_path) -> None:
    options = {
        "remap": remap_file(tmp_path), "unknown_index": unknown, "sane_index_shape": sane,
    }  # fmt: skip
    ours, peer = pair(ours_class(K, D, 0.3, **options), peer_class(K, D, 0.3, **options))
    outcomes = []
    for module in (ours, peer):
        torch.manual_seed(5)  # "random" draws
        outcomes.append(step(module, latents(3, D, 4, 5), read_reference))
    assert_same(*outcomes)
    assert ours.re_embed == peer.re_embed
    indices = outcomes[0].indices
    assert indices.max() < ours.re_embed
    given = indices.flatten()
    codes = ours.get_codebook_entry(given, (3, 4, 5, D))
    assert torch.equal(codes, peer.get_codebook_entry(given.clone(), (3, 4, 5, D)))


@pytest.mark.parametrize(
    ("ours_class", "peer_class"),
    [
        (taming.VectorQuantizer, quantize.VectorQuantizer),
        (taming.VectorQuantizer2, quantize.VectorQuantizer2),
        (diffusers.VectorQuantizer, vae.VectorQuantizer),
    ],
    ids=["first", "taming", "diffusers"],
)
def test_codebook_entries(ours_class, peer_class) -> None:
    ours, peer = pair(ours_class(K, D, 0.3), peer_class(K, D, 0.3))
    indices = torch.randint(K, (24,))
    for shape in ((2, 3, 4, D), None):
        codes = ours.get_codebook_entry(indices, shape)
        assert torch.equal(codes, peer.get_codebook_entry(indices, shape))
        assert codes.requires_grad


def test_codebook_entries_of_janus() -> None:
    ours, peer = pair(
        transformers.JanusVQVAEVectorQuantizer(CONFIG),
        modeling_janus.JanusVQVAEVectorQuantizer(CONFIG),
    )
    tokens = torch.randint(K, (2, 25))
    assert torch.equal(ours.get_codebook_entry(tokens), peer.get_codebook_entry(tokens))
    with pytest.raises(ValueError, match=r"image_tokens must lie in \[0, 40\), got 40"):
        ours.get_codebook_entry(tokens + K - tokens.max() + 0 * tokens)
    for wrong in (tokens[:, 1:], tokens[0]):
        with pytest.raises(
            ValueError, match=r"image_tokens must be \(B, P P\) with P P = 25, got \("
        ):
            ours.get_codebook_entry(wrong)


def test_emu3() -> None:
    ours, peer = pair(
        transformers.Emu3VQVAEVectorQuantizer(CONFIG),
        modeling_emu3.Emu3VQVAEVectorQuantizer(CONFIG),
    )
    z = latents(2, 3, D, 4, 5)
    indices = ours(z)
    assert indices.shape == (2, 3, 4, 5)
    assert torch.equal(indices, peer(z))


def test_ties_of_the_peer_are_decided_by_the_fp64_distance(record_property) -> None:
    """At the start all codes are within 1/K of each other, and the peer's fp32 tells few apart."""
    torch.manual_seed(0)
    peer = quantize.VectorQuantizer2(4096, 4, 0.25)
    ours = taming.VectorQuantizer2(4096, 4, 0.25)
    ours.load_state_dict(peer.state_dict())
    z = latents(4, 4, 16, 16)
    rows = z.movedim(1, -1).reshape(-1, 4)
    indices = [module(z)[2][2] for module in (ours, peer)]
    share = differing_share(rows, ours.embedding.weight.detach(), *indices)
    record_property("share of indices that differ at the start", share)
    assert share > 0, "no tie here: the test sees nothing"
    spread_codes(ours), spread_codes(peer)
    indices = [module(z)[2][2] for module in (ours, peer)]
    assert differing_share(rows, ours.embedding.weight.detach(), *indices) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_perplexity_in_every_precision(dtype: torch.dtype) -> None:
    """With a code that nothing chooses, whose logarithm fp16 cannot hold."""
    indices = torch.tensor([0, 0, 1, 2])
    spread, _ = usage_of(indices, K, torch.zeros(1, dtype=dtype), False)
    assert spread.dtype == dtype
    torch.testing.assert_close(spread, torch.tensor(2**1.5, dtype=dtype))


def test_without_the_one_hot_matrix() -> None:
    ours = spread_codes(taming.VectorQuantizer(K, D, 0.25))
    z = latents(2, D, 3, 3)
    perplexity, one_hot, indices = ours(z)[2]
    assert torch.equal(one_hot.argmax(1), indices.flatten())
    ours.returns_one_hot = False
    without = ours(z)[2]
    assert without[1] is None
    assert torch.equal(without[0], perplexity)


class Allocated(TorchDispatchMode):
    """The bytes of every tensor of some number of elements that comes to be within."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.sizes = numel, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.numel:
            self.sizes[result.data_ptr()] = result.nbytes
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_one_hot_matrix_is_the_only_one_of_its_size(dtype: torch.dtype) -> None:
    with Allocated(500 * K) as allocated:
        _, one_hot = usage_of(torch.randint(K, (500,)), K, torch.zeros(1, dtype=dtype), True)
    assert one_hot.dtype == dtype
    assert allocated.sizes == {one_hot.data_ptr(): 500 * K * dtype.itemsize}


@pytest.mark.parametrize("case", [name for name in CASES if name != "first"])
def test_compile_and_autocast(case: str) -> None:
    ours_class, _, args, kwargs, read = CASES[case]
    ours = spread_codes(ours_class(*args, **kwargs))
    z = latents(3, D, 4, 5)
    eager = step(ours, z, read)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    for got, expected in zip(step(compiled, z, read)[:3], eager[:3], strict=True):
        torch.testing.assert_close(got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = step(ours, z.bfloat16(), read)
    if case == "glm_image":  # autocast normalises in fp32 or bf16 as it likes
        return
    rows = z.bfloat16().float().movedim(1, -1).reshape(-1, D)
    expected = torch.cdist(rows.double(), ours.embedding.weight.double()).argmin(1)
    assert torch.equal(low.indices.flatten(), expected)
    assert low.losses[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.arange(K + 1), "remap must name a file with a list of 1 to 40 codes .* got 41 of them"),
        (np.arange(0), "remap must name .* got 0 of them"),
        (np.array([0, K]), "remap must name .* got the code 40"),
        (np.array([-1, 2]), "remap must name .* got the code -1"),
        (np.zeros((2, 2), int), r"remap must name .* got int64 of shape \(2, 2\)"),
        (np.array([0.5]), "remap must name .* got float64"),
    ],
)
def test_bad_remap_files(codes, message: str, tmp_path) -> None:
    path = tmp_path / "used.npy"
    np.save(path, codes)
    for build in (taming.VectorQuantizer2, diffusers.VectorQuantizer):
        with pytest.raises(ValueError, match=message):
            build(K, D, 0.25, remap=path)
    with pytest.raises(ValueError, match=message):
        taming.GumbelQuantize(4, D, K, remap=path)


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2])], ids=str)
def test_a_remap_that_is_no_list_of_integers_is_not_unpickled(content, tmp_path) -> None:
    path = tmp_path / "used.npy"
    path.write_bytes(content)
    np.savez(tmp_path / "used.npz", np.arange(3))
    for wrong in (path, tmp_path / "used.npz"):
        with pytest.raises(ValueError, match=r"remap must name a \.npy file of integers; .*used"):
            taming.VectorQuantizer2(K, D, 0.25, remap=wrong)


@pytest.mark.parametrize("unknown", ["never", 6, -1, 1.5])
def test_bad_unknown_index(unknown, tmp_path) -> None:
    with pytest.raises(ValueError, match='unknown_index must be "random", "extra" or an integer'):
        taming.VectorQuantizer2(K, D, 0.25, remap=remap_file(tmp_path), unknown_index=unknown)


@pytest.mark.parametrize("bad", [-1, K])
def test_indices_out_of_range(bad: int, tmp_path) -> None:
    indices = torch.tensor([0, bad])
    gumbel = taming.GumbelQuantize(4, D, K)
    for module in (
        taming.VectorQuantizer(K, D, 0.25), taming.VectorQuantizer2(K, D, 0.25),
        diffusers.VectorQuantizer(K, D, 0.25), gumbel,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"indices must lie in \[0, {K}\), got {bad}"):
            module.get_codebook_entry(indices, (1, 1, 2, D))
    remapped = taming.VectorQuantizer2(K, D, 0.25, remap=remap_file(tmp_path))
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 6\), got 6"):
        remapped.get_codebook_entry(torch.tensor([6]), (1, 1, 1, D))


@pytest.mark.parametrize("z", [None, [1.0]])
@pytest.mark.parametrize("build", [taming.VectorQuantizer, taming.EMAVectorQuantizer])
def test_latents_that_are_no_tensor(build, z: object) -> None:
    with pytest.raises(TypeError, match=r"z must be a torch\.Tensor, got"):
        build(K, D, 0.25)(z)


def test_bad_calls() -> None:
    ours = taming.VectorQuantizer2(K, D, 0.25)
    with pytest.raises(
        ValueError, match=r"z must be \(B, D, H, W\) with D = 6, got \(2, 5, 3, 3\)"
    ):
        ours(torch.zeros(2, 5, 3, 3))
    with pytest.raises(ValueError, match="temp, rescale_logits and return_logits are for Gumbel"):
        ours(torch.zeros(2, D, 3, 3), temp=0.5)
    with pytest.raises(ValueError, match="n_e must be at least 1, got 0"):
        taming.VectorQuantizer2(0, D, 0.25)


@pytest.mark.parametrize(
    "shape", [(1, 2, 2, D), (1, 1, 2, 9), (2, 9, 1, 1), (3, D), (1, 1, 1, 3, D)]
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    """Those too that have as many elements."""
    for build in (taming.VectorQuantizer, taming.VectorQuantizer2, diffusers.VectorQuantizer):
        with pytest.raises(ValueError, match=r"shape must be \(B, H, W, C\) with B H W = 3 and"):
            build(K, D, 0.25).get_codebook_entry(torch.tensor([0, 1, 2]), shape)
