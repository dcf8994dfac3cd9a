"""The quantisers and losses on `ops.soft_assign` against their dense forms in plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from latent_noise import latents
from torch import Tensor, nn
from torch.nn import functional as F

from vqgan_fast.ops.reference.soft_assign import gumbel_noise
from vqgan_fast.quantizers import (
    GumbelQuantizer,
    IndexPropagationQuantizer,
    entropy_loss,
    entropy_terms,
)

PEAK_MEMORY = Path(__file__).resolve().parents[2] / "benchmarks" / "peak_memory.py"


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


def dense_entropies(affinity: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """As LlamaGen and IBQ write them, for affinities (N, K)."""
    log_p = (affinity / temperature + 1e-5).log_softmax(-1)
    p = (affinity / temperature).softmax(-1)
    average = p.mean(0)
    return -(p * log_p).sum(-1).mean(), -(average * (average + 1e-5).log()).sum()


def dense_index_propagation(z: Tensor, codebook: Tensor, beta: float) -> tuple[Tensor, ...]:
    """IBQ's forward pass: z_q and the quantiser's loss, with its N x K tensors."""
    logits = torch.einsum("bdhw,nd->bnhw", z, codebook)
    soft = logits.softmax(1)
    indices = soft.argmax(1)
    hard = F.one_hot(indices, len(codebook)).movedim(-1, 1).to(soft)
    straight_through = hard - soft.detach() + soft
    z_q = torch.einsum("bnhw,nd->bdhw", straight_through, codebook)
    chosen = torch.einsum("bnhw,nd->bdhw", hard, codebook)
    loss = (z_q - z).square().mean() + (chosen.detach() - z).square().mean()
    return z_q, loss + beta * (chosen - z.detach()).square().mean(), indices


def outputs_and_gradients(z_q: Tensor, loss: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    weights = latents(*z_q.shape).square().to(z_q)
    return [z_q, loss, *torch.autograd.grad(loss + (weights * z_q).sum(), inputs)]


@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_index_propagation_is_its_dense_form(dtype: torch.dtype, entropy_weight: float) -> None:
    quantizer = IndexPropagationQuantizer(
        300,
        12,
        beta=0.4,
        entropy_weight=entropy_weight,
        entropy_temperature=0.5,
        sample_weight=0.8,
        batch_weight=1.3,
    ).to(dtype)
    nn.init.normal_(quantizer.embedding.weight, std=0.5)
    z = latents(2, 12, 5, 7).to(dtype).requires_grad_()
    z_q, loss, info = quantizer(z)
    found = outputs_and_gradients(z_q, loss, (z, quantizer.embedding.weight))
    wide = z.detach().double().requires_grad_()
    codebook = quantizer.embedding.weight.detach().double().requires_grad_()
    expected_z_q, expected_loss, indices = dense_index_propagation(wide, codebook, 0.4)
    rows = wide.movedim(1, -1).reshape(-1, 12)
    sample, average = dense_entropies(rows @ codebook.T, 0.5)
    expected_loss = expected_loss + entropy_weight * (0.8 * sample - 1.3 * average)
    expected = outputs_and_gradients(expected_z_q, expected_loss, (wide, codebook))
    assert torch.equal(info.indices, indices)
    told = (info.sample_entropy, info.average_entropy)
    if entropy_weight == 0:
        assert told == (None, None)
    else:
        for one, other in zip(told, (sample, average), strict=True):
            assert_near(one, other)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 1e-5 if dtype == torch.float32 else 1e-12)
    assert (found[3].abs().sum(1) > 0).all()  # every code learns
    assert torch.equal(info.counts, indices.flatten().bincount(minlength=300))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("entropy_weight", [0.0, 0.1])
def test_ten_training_steps_of_index_propagation(entropy_weight: float, seed: int) -> None:
    """At IBQ's temperature, an encoder trained with the codes; the dense form in fp64."""
    told = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(seed)
        quantizer = IndexPropagationQuantizer(60, 8, entropy_weight=entropy_weight)
        nn.init.normal_(quantizer.embedding.weight, std=0.5)
        model = nn.ModuleList([nn.Conv2d(3, 8, 1), quantizer]).to(dtype)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses = []
        for i in range(10):
            z = model[0](latents(10, 2, 3, 5, 7)[i].to(dtype))
            if dtype == torch.float32:
                z_q, loss, _ = quantizer(z)
            else:
                codebook = quantizer.embedding.weight
                z_q, loss, _ = dense_index_propagation(z, codebook, quantizer.beta)
                affinity = z.movedim(1, -1).reshape(-1, 8) @ codebook.T
                sample, average = dense_entropies(affinity, 0.01)
                loss = loss + entropy_weight * (sample - average)
            error = (z_q - 1).square().mean()
            optimizer.zero_grad()
            (error + loss).backward()
            optimizer.step()
            losses.append([error.item(), loss.item()])
        told.append(torch.tensor(losses, dtype=torch.float64))
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)


def test_index_propagation_interface() -> None:
    quantizer = IndexPropagationQuantizer(50, 8, beta=0.3, legacy=False)
    nn.init.normal_(quantizer.embedding.weight)
    z = latents(2, 8, 4, 4)
    z_q, loss, info = quantizer(z)
    assert torch.equal(z_q, quantizer.lookup(info.indices))
    assert torch.equal(quantizer.encode(z), info.indices)
    error = (z - z_q).square().mean()
    torch.testing.assert_close(loss, 2.3 * error)
    torch.testing.assert_close(info.commitment_loss, error)
    with torch.no_grad():
        again = quantizer(z)
    assert torch.equal(again[0], z_q) and torch.equal(again[1], loss)
    with pytest.raises(ValueError, match=r"z must be \(B, D, H, W\) with D = 8"):
        quantizer(z[:, :7])
    with pytest.raises(ValueError, match="entropy_temperature must be positive, got 0"):
        IndexPropagationQuantizer(50, 8, entropy_temperature=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_index_propagation_in_half_precision(dtype: torch.dtype, training: bool) -> None:
    """Losses are those of the rounded values, neither rounded nor overflown themselves."""
    quantizer = IndexPropagationQuantizer(50, 8).to(dtype)
    nn.init.normal_(quantizer.embedding.weight)
    z = 300 * latents(2, 8, 4, 4).to(dtype)
    with torch.set_grad_enabled(training):
        z_q, loss, info = quantizer(z)
    assert z_q.dtype == dtype
    _, expected, expected_info = quantizer.double()(z.double())
    assert torch.equal(info.indices, expected_info.indices)
    for one, other in ((loss, expected), *zip(info[2:4], expected_info[2:4], strict=True)):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=0)


def test_index_propagation_holds_no_matrix_of_latents_and_codes() -> None:
    """512 x 65536 in fp32 would be 128 MiB; four of them are what the dense form holds."""
    batch, dim, side, num_codes = 2, 16, 16, 65536
    sizes = map(str, (batch, dim, side, num_codes))
    measured = json.loads(
        subprocess.run(
            [sys.executable, str(PEAK_MEMORY), "--step", "IBQ", *sizes],
            check=True,
            capture_output=True,
            text=True,
            cwd=PEAK_MEMORY.parents[1],
        ).stdout
    )
    assert measured["codebook"] == 4 * num_codes * dim
    # Packed codebooks, the two parts of its gradient, and workspace.
    assert measured["extra"] <= 10 * measured["codebook"], measured
    assert measured["extra"] >= measured["codebook"], measured


@pytest.fixture
def reference_gumbel(monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """The reference's GumbelQuantize with the noise that seed 7 gives."""
    from taming.modules.vqvae.quantize import GumbelQuantize

    def gumbel_softmax(logits: Tensor, tau: float, dim: int, hard: bool) -> Tensor:
        rows = logits.movedim(dim, -1)
        numbers = torch.arange(rows[..., 0].numel())
        noise = gumbel_noise(torch.tensor(7), numbers, rows.shape[-1])
        noise = noise.reshape(rows.shape).movedim(-1, dim).to(logits)
        soft = ((logits + noise) / tau).softmax(dim)
        if not hard:
            return soft
        one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
        return one_hot - soft.detach() + soft

    monkeypatch.setattr(F, "gumbel_softmax", gumbel_softmax)
    return GumbelQuantize


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("straight_through", [True, False])
def test_gumbel_is_the_references(
    straight_through: bool, training: bool, reference_gumbel: type[nn.Module]
) -> None:
    ours = GumbelQuantizer(
        70, 6, 9, straight_through=straight_through, kl_weight=0.3, temperature=0.8
    )
    theirs = reference_gumbel(9, 6, 70, straight_through, kl_weight=0.3, temp_init=0.8)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for quantizer, options in ((ours, {"seed": 7}), (theirs, {})):
        quantizer.train(training)
        z = latents(2, 9, 4, 5).mul(3).requires_grad_()
        z_q, loss, info = quantizer(z, **options)
        results.append((outputs_and_gradients(z_q, loss, (z, *quantizer.parameters())), info))
    (found, info), (expected, (_, _, indices)) = results
    assert torch.equal(info.indices, indices)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


def test_gumbel_interface() -> None:
    quantizer = GumbelQuantizer(40, 6, 9)
    z = latents(2, 9, 4, 5)
    z_q, loss, info = quantizer(z)
    assert z_q.shape == (2, 6, 4, 5) and loss.shape == ()
    torch.testing.assert_close(z_q, quantizer.lookup(info.indices))
    assert info.counts.sum() == 40
    assert torch.equal(quantizer.encode(z), quantizer.proj(z).argmax(1))
    torch.manual_seed(3)
    one = quantizer(z)[2].indices
    other = quantizer(z)[2].indices
    torch.manual_seed(3)
    assert torch.equal(quantizer(z)[2].indices, one) and not torch.equal(one, other)
    with torch.no_grad():
        torch.manual_seed(3)
        assert torch.equal(quantizer(z)[2].indices, one)
    cold = quantizer(z, temperature=1e-4, seed=5)
    assert torch.equal(cold[2].indices, quantizer(z, seed=5)[2].indices)
    with pytest.raises(ValueError, match=r"z must be \(B, C, H, W\) with C = 9, got \(2, 8"):
        quantizer(z[:, :8])
    with pytest.raises(ValueError, match=r"z must be floating point, got torch\.int64"):
        quantizer(torch.ones(1, 9, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        GumbelQuantizer(40, 6, temperature=0)
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 40\), got 40"):
        quantizer.lookup(torch.tensor([40]))


@pytest.mark.parametrize("name", ["gumbel", "index propagation"])
def test_quantizers_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    if name == "gumbel":
        quantizer, options = GumbelQuantizer(40, 8), {"seed": 1}
    else:
        quantizer, options = IndexPropagationQuantizer(40, 8, entropy_weight=0.1), {}
    z = latents(2, 8, 4, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = z.clone().requires_grad_()
        z_q, loss, info = quantizer(leaf, **options)
    assert z_q.dtype == torch.bfloat16 and loss.dtype == torch.float32
    plain_z_q, plain_loss, plain_info = quantizer(z.float(), **options)
    assert torch.equal(info.indices, plain_info.indices)
    assert_near(loss, plain_loss, 1e-5)
    assert_near(z_q, plain_z_q, 1e-2)
    (z_q.float().sum() + loss).backward()
    assert leaf.grad.dtype == torch.bfloat16 and leaf.grad.isfinite().all()


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_entropies_are_llamagens(metric: str) -> None:
    z, codebook = latents(60, 8).requires_grad_(), latents(90, 8).flip(0).requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (z, codebook)]
    dot = metric == "dot"
    affinity = wide[0] @ wide[1].T if dot else -(wide[0][:, None] - wide[1]).square().sum(-1)
    sample, average = dense_entropies(affinity, 0.5)
    found = entropy_terms(z, codebook, 0.5, metric=metric)
    assert_near(found[0], sample)
    assert_near(found[1], average)
    loss = entropy_loss(z, codebook, 0.5, metric=metric)
    assert_near(loss, sample - average)
    for one, other in zip(
        torch.autograd.grad(loss, (z, codebook)),
        torch.autograd.grad(sample - average, wide),
        strict=True,
    ):
        assert_near(one, other)


def test_entropy_loss_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="loss_type must be \"softmax\", got 'argmax'"):
        entropy_loss(torch.zeros(3, 2), torch.zeros(4, 2), loss_type="argmax")


@pytest.mark.parametrize("name", ["gumbel", "index propagation"])
def test_compiled_quantizers(name: str) -> None:
    quantizer = (
        GumbelQuantizer(40, 8)
        if name == "gumbel"
        else IndexPropagationQuantizer(40, 8, entropy_weight=0.1)
    )
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    options = {"seed": torch.tensor(5)} if name == "gumbel" else {}
    z = latents(2, 8, 4, 5).requires_grad_()
    results = []
    for module in (compiled, quantizer):
        z_q, loss, info = module(z, **options)
        results.append([info.indices, *outputs_and_gradients(z_q, loss, (z,))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
