"""VectorQuantizer against the reference's, and what it refuses."""

from __future__ import annotations

import pytest
import taming_peer
import torch
from latent_noise import latents

from vqgan_fast.quantizers import VectorQuantizer


def spread(quantizer: VectorQuantizer) -> VectorQuantizer:
    """Codes as far apart as the latents, so that no choice hangs on rounding."""
    torch.nn.init.normal_(quantizer.embedding.weight, generator=torch.Generator().manual_seed(0))
    return quantizer


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("legacy", [True, False])
def test_equals_the_reference(legacy: bool, channels_last: bool) -> None:
    ours = spread(VectorQuantizer(50, 12, beta=0.4, legacy=legacy))
    reference = taming_peer.vector_quantizer_class()(50, 12, 0.4, legacy=legacy)
    reference.load_state_dict(ours.state_dict())
    z = latents(3, 12, 5, 7)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    weight = latents(3, 12, 5, 7) ** 2
    results, gradients = [], []
    for quantizer in (ours, reference):
        leaf = z.clone(memory_format=layout).requires_grad_()
        z_q, loss, info = quantizer(leaf)
        (3 * loss + (z_q * weight).sum()).backward()
        results.append((z_q, loss, info))
        gradients.append((leaf.grad, quantizer.embedding.weight.grad))
    (z_q, loss, info), (expected_z_q, expected_loss, expected_info) = results
    assert torch.equal(info.indices.flatten(), expected_info[2])
    assert torch.equal(z_q, expected_z_q)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_info() -> None:
    quantizer = spread(VectorQuantizer(50, 4))
    z = latents(2, 4, 6, 6)
    z_q, loss, info = quantizer(z)
    assert info.indices.shape == (2, 6, 6)
    assert info.counts.dtype == torch.int64
    assert torch.equal(info.counts, info.indices.flatten().bincount(minlength=50))
    distance = (z - quantizer.lookup(info.indices)).square().mean()
    torch.testing.assert_close(info.commitment_loss, distance)
    torch.testing.assert_close(info.codebook_loss, distance)
    torch.testing.assert_close(loss, 1.25 * distance)
    assert torch.equal(quantizer.encode(z), info.indices)
    torch.testing.assert_close(z_q, quantizer.lookup(info.indices))


def test_the_two_terms_reach_their_own_side() -> None:
    quantizer = spread(VectorQuantizer(9, 4))
    z = latents(1, 4, 3, 3).requires_grad_()
    info = quantizer(z)[2]
    inputs = (z, quantizer.embedding.weight)
    to_z, to_codebook = torch.autograd.grad(
        info.commitment_loss, inputs, retain_graph=True, materialize_grads=True
    )
    assert to_z.abs().sum() > 0
    assert to_codebook.abs().sum() == 0
    to_z, to_codebook = torch.autograd.grad(info.codebook_loss, inputs, materialize_grads=True)
    assert to_z.abs().sum() == 0
    assert to_codebook.abs().sum() > 0


def test_initialisation() -> None:
    torch.manual_seed(0)
    weight = VectorQuantizer(200, 64).embedding.weight
    assert weight.abs().max() <= 1 / 200
    assert abs(weight.mean()) < 1e-4
    assert abs(weight.std() - 1 / 200 / 3**0.5) < 1e-4


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 4)])
def test_lookup_puts_channels_second(shape: tuple[int, ...]) -> None:
    quantizer = VectorQuantizer(7, 3)
    indices = torch.randint(7, shape)
    codes = quantizer.lookup(indices)
    assert codes.shape == (shape[0], 3, *shape[1:])
    assert torch.equal(codes.movedim(1, -1), quantizer.embedding.weight[indices])


def test_lookup_under_vmap() -> None:
    """Where nobody can see the indices, so that they are not checked."""
    quantizer = VectorQuantizer(7, 3)
    indices = torch.randint(7, (4, 2, 5))
    codes = torch.vmap(quantizer.lookup)(indices)
    assert torch.equal(codes.movedim(2, -1), quantizer.embedding.weight[indices])


def test_bf16_latents() -> None:
    quantizer = spread(VectorQuantizer(50, 12))
    z = latents(2, 12, 4, 4).bfloat16().requires_grad_()
    z_q, loss, info = quantizer(z)
    assert z_q.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert torch.equal(info.indices, quantizer.encode(z.detach().float()))
    (loss + z_q.float().sum()).backward()
    assert z.grad.dtype == torch.bfloat16
    assert quantizer.embedding.weight.grad.dtype == torch.float32


def test_a_batch_of_no_images() -> None:
    z_q, _, info = VectorQuantizer(5, 4)(torch.zeros(0, 4, 2, 2))
    assert z_q.shape == (0, 4, 2, 2)
    assert torch.equal(info.counts, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 5, 5), (2, 4, 4, 4, 4)])
def test_bad_latents(shape: tuple[int, ...]) -> None:
    quantizer = VectorQuantizer(5, 4)
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"z must be \(B, D, H, W\) with D = 4, got \("):
            call(torch.zeros(shape))


def test_bad_indices() -> None:
    quantizer = VectorQuantizer(5, 4)
    for bad in (5, -1):
        with pytest.raises(ValueError, match=rf"indices must lie in \[0, 5\), got {bad}"):
            quantizer.lookup(torch.tensor([0, bad]))
    with pytest.raises(ValueError, match=r"indices must be int64 or int32, got torch\.float32"):
        quantizer.lookup(torch.zeros(2))
    with pytest.raises(ValueError, match=r"indices must be \(B, \.\.\.\), got \(\)"):
        quantizer.lookup(torch.tensor(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_size": 0}, "codebook_size must be at least 1, got 0"),
        ({"e_dim": -1}, "e_dim must be at least 1, got -1"),
        ({"e_dim": 4.0}, r"e_dim must be an integer, got 4\.0"),
        ({"beta": -0.1}, "beta must not be negative, got -0.1"),
        ({"legacy": "no"}, "legacy must be True or False, got 'no'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**arguments)
