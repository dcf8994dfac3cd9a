"""taming's moving-average quantiser against a dense definition, on one rank and on two."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from dense_peers import DenseEMA
from parity import assert_same, latents, losses_of_ten_steps, pair, step
from ranks import run_on_two_ranks

import vqgan_fast
from vqgan_fast.compat.taming import EMAVectorQuantizer

K, D = 20, 4


def read(output):
    z_q, loss, (perplexity, one_hot, indices) = output
    return z_q, [loss, perplexity, one_hot.sum()], indices


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", [0, 1])
def test_three_steps(seed: int, training: bool) -> None:
    ours, peer = pair(EMAVectorQuantizer(K, D, 0.4, 0.9), DenseEMA(K, D, 0.4, 0.9), seed)
    ours.train(training), peer.train(training)
    before = ours.embedding.weight.clone()
    for i in range(3):
        z = latents(2, D, 5, 6, seed=10 * seed + i)
        assert_same(step(ours, z, read), step(peer, z, read))
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, peer.state_dict()[name], msg=lambda m, n=name: n + m)
    assert torch.equal(ours.embedding.weight, before) != training


def test_ten_training_steps() -> None:
    told = [
        losses_of_ten_steps(module, D, read)
        for module in pair(EMAVectorQuantizer(K, D, 0.25), DenseEMA(K, D, 0.25))
    ]
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)


def test_compile_and_autocast() -> None:
    ours = EMAVectorQuantizer(K, D, 0.25)
    z = latents(2, D, 4, 5)
    twin = copy.deepcopy(ours)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for got, expected in zip(step(compiled, z, read)[:3], step(ours, z, read)[:3], strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(twin.state_dict(), ours.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_q, loss, _ = ours(z.bfloat16())
    assert z_q.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert ours.embedding.weight.dtype == torch.float32


def test_a_codebook_that_asks_for_a_gradient_gets_none() -> None:
    ours = EMAVectorQuantizer(K, D, 0.25).requires_grad_()
    scale = torch.ones((), requires_grad=True)
    z_q, loss, _ = ours(latents(2, D, 4, 5))
    (scale * (z_q.sum() + loss)).backward()
    assert ours.embedding.weight.grad is None


def test_what_is_not_covered() -> None:
    with pytest.raises(NotImplementedError, match="remap is not covered by EMAVectorQuantizer"):
        EMAVectorQuantizer(K, D, 0.25, remap="used.npy")


def test_patch() -> None:
    """The reference's cannot be constructed: a dense form with its attributes stands in for it."""
    peer = DenseEMA(K, D, 0.25, 0.9)
    vars(peer).update(codebook_dim=D, num_tokens=K)
    vars(peer.embedding).update(decay=0.9, eps=1e-5, update=True)
    patched = copy.deepcopy(peer)
    embedding, classes = patched.embedding, [type(part) for part in patched.modules()]
    own = f"{DenseEMA.__module__}.DenseEMA"
    also = {own: "taming.modules.vqvae.quantize.EMAVectorQuantizer"}
    assert vqgan_fast.patch(patched, strict=True, also=also).swapped == {"": own}
    assert patched.embedding is embedding
    z = latents(2, D, 5, 6)
    assert_same(step(patched, z, read), step(peer, z, read))
    torch.testing.assert_close(patched.state_dict(), peer.state_dict())
    patched.bfloat16()
    types = {name: value.dtype for name, value in patched.embedding.named_parameters()}
    assert types["weight"] == torch.bfloat16
    assert types["cluster_size"] == types["embed_avg"] == torch.float32
    assert vqgan_fast.unpatch(patched) == [""]
    assert [type(part) for part in patched.modules()] == classes


def train_rank(rank: int, folder: Path) -> None:
    """Each rank sees a part of the batch; the states that all of them hold go to a file."""
    torch.manual_seed(0)
    quantizer = EMAVectorQuantizer(K, D, 0.25, 0.9)
    for i in range(3):
        quantizer(latents(3, D, 5, 6, seed=i)[: 1 if rank == 0 else 3][rank:])  # 1 and 2 images
    torch.save(quantizer.state_dict(), folder / f"{rank}.pt")


def test_two_ranks_hold_what_one_rank_with_the_whole_batch_holds(tmp_path: Path) -> None:
    run_on_two_ranks(train_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    whole = EMAVectorQuantizer(K, D, 0.25, 0.9)
    for i in range(3):
        whole(latents(3, D, 5, 6, seed=i))
    for name, value in whole.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)
