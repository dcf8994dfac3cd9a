"""The reference's GumbelQuantize against its stand-in, with the same random draws."""

from __future__ import annotations

import pytest
import torch
from parity import assert_same, latents, losses_of_ten_steps, pair, remap_file, step
from taming.modules.vqvae import quantize

from vqgan_fast.compat import taming
from vqgan_fast.ops.reference.soft_assign import gumbel_noise

K, D = 40, 6


def read_gumbel(output):
    z_q, loss, (_, _, indices) = output
    return z_q.contiguous(), [loss], indices


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("remapped", [True, False])
def test_gumbel(remapped: bool, straight_through: bool, channels_last: bool, tmp_path) -> None:
    options = {
        "straight_through": straight_through, "kl_weight": 0.1, "temp_init": 0.7,
        "remap": remap_file(tmp_path) if remapped else None, "unknown_index": "extra",
    }  # fmt: skip
    ours, peer = pair(
        taming.GumbelQuantize(4, D, K, **options), quantize.GumbelQuantize(4, D, K, **options)
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    z = latents(2, 4, 3, 5).contiguous(memory_format=layout)
    for training in (True, False):
        outcomes = []
        for module in (ours.train(training), peer.train(training)):
            torch.manual_seed(5)
            outcomes.append(step(module, z, read_gumbel))
        assert_same(*outcomes)
    indices = outcomes[0].indices
    codes = ours.get_codebook_entry(indices.flatten(), (2, 3, 5, D))
    assert torch.equal(codes, peer.get_codebook_entry(indices.flatten(), (2, 3, 5, D)))
    torch.manual_seed(5)
    logits = ours(z, temp=0.5, return_logits=True)[3]
    torch.manual_seed(5)
    torch.testing.assert_close(logits, peer(z, temp=0.5, return_logits=True)[3])
    ours.use_vqinterface = peer.use_vqinterface = False
    torch.manual_seed(5)
    expected = ours(z)[2]
    torch.manual_seed(5)
    assert torch.equal(expected, peer(z)[2])


@pytest.mark.parametrize("straight_through", [True, False])
def test_ten_training_steps_of_gumbel(straight_through: bool) -> None:
    options = {"straight_through": straight_through, "kl_weight": 0.1, "temp_init": 0.7}
    ours, peer = pair(
        taming.GumbelQuantize(4, D, K, **options), quantize.GumbelQuantize(4, D, K, **options)
    )
    # Seeded with the first step, both draw the same noise in all ten.
    told = [losses_of_ten_steps(module, 4, read_gumbel) for module in (ours, peer)]
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)
    assert (told[0][0] != told[0][-1]).any()


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("remapped", [True, False])
def test_gumbel_without_the_matrix(
    remapped: bool, straight_through: bool, tmp_path, monkeypatch
) -> None:
    """The reference's numbers, where it draws from the noise that ours has."""
    options = {
        "straight_through": straight_through, "kl_weight": 0.1, "temp_init": 0.7,
        "remap": remap_file(tmp_path) if remapped else None, "unknown_index": "extra",
    }  # fmt: skip
    ours, peer = pair(
        taming.GumbelQuantize(4, D, K, **options), quantize.GumbelQuantize(4, D, K, **options)
    )
    ours.draws_as_reference = False

    def gumbel_softmax(logits, tau, dim, hard):
        rows = logits.movedim(dim, -1)
        seed = torch.randint(2**63 - 1, ())
        noise = gumbel_noise(seed, torch.arange(rows[..., 0].numel()), rows.shape[-1])
        soft = ((rows + noise.reshape(rows.shape).to(rows)) / tau).softmax(-1)
        one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return (one_hot - soft.detach() + soft if hard else soft).movedim(-1, dim)

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)
    z = latents(2, 4, 3, 5)
    for training in (True, False):
        outcomes = []
        for module in (ours.train(training), peer.train(training)):
            torch.manual_seed(5)
            outcomes.append(step(module, z, read_gumbel))
        assert_same(*outcomes)


@pytest.mark.parametrize("draws_as_reference", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3, 5), (2, 4, 15)])
def test_latents_of_another_shape_are_refused(draws_as_reference: bool, shape: tuple) -> None:
    ours = taming.GumbelQuantize(4, D, K)
    ours.draws_as_reference = draws_as_reference
    with pytest.raises(ValueError, match=r"z must be \(B, C, H, W\) with C = 4, got"):
        ours(latents(*shape))


def test_a_shape_that_is_missing() -> None:
    with pytest.raises(ValueError, match=r"shape must be \(B, H, W, C\), got None"):
        taming.GumbelQuantize(4, D, K).get_codebook_entry(torch.tensor([0]), None)
