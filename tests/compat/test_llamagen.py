"""LlamaGen's quantiser against a dense definition."""

from __future__ import annotations

import copy

import pytest
import torch
from dense_peers import DenseLlamaGen
from parity import assert_same, latents, losses_of_ten_steps, pair, spread_codes, step

import vqgan_fast
from vqgan_fast.compat.llamagen import WINDOW, VectorQuantizer

K, D = 30, 4


def read(output):
    z_q, losses, (_, _, indices) = output
    return z_q, [loss for loss in losses[:3] if loss is not None], indices


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("ratio", [0.0, 0.2])
@pytest.mark.parametrize("l2_norm", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_step(seed: int, l2_norm: bool, ratio: float, training: bool) -> None:
    args = (K, D, 0.25, ratio, l2_norm, True)
    ours, peer = pair(VectorQuantizer(*args), DenseLlamaGen(*args), seed)
    z = latents(2, D, 4, 5, seed=seed + 10)
    ours.train(training), peer.train(training)
    assert_same(step(ours, z, read), step(peer, z, read))
    assert torch.equal(ours.codebook_used, peer.codebook_used)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_ten_training_steps(l2_norm: bool) -> None:
    args = (K, D, 0.25, 0.1, l2_norm, False)
    told = [
        losses_of_ten_steps(module, D, read)
        for module in pair(VectorQuantizer(*args), DenseLlamaGen(*args))
    ]
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-5)


def test_patch() -> None:
    """Its repository is no package: a dense form with its attributes stands in for the class."""
    args = (K, D, 0.25, 0.1, True, True)
    names = ("n_e", "e_dim", "beta", "entropy_loss_ratio", "l2_norm", "show_usage")
    peer = spread_codes(DenseLlamaGen(*args))
    vars(peer).update(zip(names, args, strict=True))
    # A parameter among its buffers, as LlamaGen registers it.
    peer._buffers["codebook_used"] = torch.nn.Parameter(peer.codebook_used)
    patched = copy.deepcopy(peer)
    peer.codebook_used.requires_grad_(False)
    own = f"{DenseLlamaGen.__module__}.DenseLlamaGen"
    known = "tokenizer.tokenizer_image.vq_model.VectorQuantizer"
    report = vqgan_fast.patch(patched, strict=True, also={own: known})
    assert report.swapped == {"": own}
    z = latents(2, D, 4, 5, seed=3)
    assert_same(step(patched, z, read), step(peer, z, read))
    assert torch.equal(patched.codebook_used, peer.codebook_used)
    vqgan_fast.unpatch(patched)
    del patched.l2_norm
    assert "no attribute l2_norm" in vqgan_fast.patch(patched, also={own: known}).left[""][1]


def test_usage_is_that_of_the_window() -> None:
    args = (K, D, 0.25, 0.0, True, True)
    ours, peer = pair(VectorQuantizer(*args), DenseLlamaGen(*args))
    for side in (2, 5, 11):
        z = latents(1, D, side, side, seed=side)
        assert float(ours(z)[1][3]) == pytest.approx(peer(z)[1][3])
    assert ours.eval()(z)[1] == (None, None, None, 0)


def test_usage_in_half_precision() -> None:
    # bf16 cannot hold index 16383: the window, whose type follows the model's, says 16384.
    args = (16384, 2, 0.25, 0.0, False, True)
    ours, peer = pair(VectorQuantizer(*args), DenseLlamaGen(*args))
    for module in (ours.bfloat16(), peer.bfloat16()):
        module.embedding.weight.data.fill_(-1)
        module.embedding.weight.data[-1] = 1
    z = torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)
    assert float(ours(z)[1][3]) == pytest.approx(float(peer(z)[1][3]))
    assert int(ours.codebook_used[-1]) == 16384


def test_more_latents_than_the_window_holds() -> None:
    ours = VectorQuantizer(8, 2, 0.25, 0.0, False, True)
    with torch.no_grad():
        _, losses, (_, _, indices) = ours(latents(1, 2, 260, 260))
    assert len(indices) > WINDOW
    assert torch.equal(ours.codebook_used, indices[-WINDOW:].float())
    assert losses[3] == len(indices[-WINDOW:].unique()) / 8


def test_state_dict() -> None:
    assert list(VectorQuantizer(K, D, 0.25, 0.0, True, False).state_dict()) == ["embedding.weight"]
    state = VectorQuantizer(K, D, 0.25, 0.0, True, True).state_dict()
    assert state["codebook_used"].shape == (65536,)
    torch.testing.assert_close(state["embedding.weight"].norm(dim=1), torch.ones(K))


@pytest.mark.parametrize("l2_norm", [True, False])
def test_codebook_entries(l2_norm: bool) -> None:
    ours = spread_codes(VectorQuantizer(K, D, 0.25, 0.0, l2_norm, False)).eval()
    z = latents(2, D, 3, 4)
    z_q, _, (_, _, indices) = ours(z)
    torch.testing.assert_close(ours.get_codebook_entry(indices, (2, D, 3, 4)), z_q)
    last = ours.get_codebook_entry(indices, (2, 3, 4, D), channel_first=False)
    torch.testing.assert_close(last.permute(0, 3, 1, 2), z_q)
    assert ours.get_codebook_entry(indices).shape == (24, D)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 30\), got 30"):
        ours.get_codebook_entry(torch.tensor([30]))
    for shape in ((2, D, 3, 5), (2, 3, 4, D), (2, D, 12)):
        with pytest.raises(ValueError, match=r"^shape must be \(B, C, H, W\) with B H W = 24 and"):
            ours.get_codebook_entry(indices, shape)
    for shape in ((24, D), (2, 12, D), (-1, D), (2, 3, 4, -1)):  # as the peer's view takes them
        entry = ours.get_codebook_entry(indices, shape, channel_first=False)
        assert torch.equal(entry, last.reshape(shape))
    for shape in ((2, D, 3, 2), (2, 3, 5, D), (-1, 7, D), (-1, -1), ()):
        with pytest.raises(ValueError, match=r"^shape must be \(B, H, W, C\) with B H W = 24 and"):
            ours.get_codebook_entry(indices, shape, channel_first=False)


@pytest.mark.parametrize("z", [None, [1.0]])
def test_latents_that_are_no_tensor(z: object) -> None:
    with pytest.raises(TypeError, match=r"z must be a torch\.Tensor, got"):
        VectorQuantizer(K, D, 0.25, 0.0, True, True)(z)


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_compile_and_autocast(ratio: float) -> None:
    ours = spread_codes(VectorQuantizer(K, D, 0.25, ratio, True, True))
    z = latents(2, D, 4, 5)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    for got, expected in zip(step(compiled, z, read)[:3], step(ours, z, read)[:3], strict=True):
        torch.testing.assert_close(got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = step(ours, z.bfloat16(), read)
    torch.testing.assert_close(low.losses, step(ours, z, read).losses, rtol=0.05, atol=0.01)
    assert all(loss.dtype == torch.float32 for loss in low.losses)
