"""PatchGAN against the reference, its initialisation, what it refuses."""

from __future__ import annotations

import pytest
import taming_peer
import torch

from vqgan_fast.models.discriminator import PatchGANDiscriminator


@pytest.mark.parametrize("use_actnorm", [False, True])
@pytest.mark.parametrize("n_layers", [1, 3, 4])
def test_equals_the_reference(n_layers: int, use_actnorm: bool) -> None:
    torch.manual_seed(0)
    ours = PatchGANDiscriminator(4, ndf=8, n_layers=n_layers, use_actnorm=use_actnorm)
    reference = taming_peer.discriminator_class()(4, 8, n_layers, use_actnorm)
    reference.load_state_dict(ours.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    # Twice in training mode (ActNorm starts from the first batch), then in eval mode.
    for training in (True, True, False):
        x = torch.randn(2, 4, 64, 48)
        logits, expected = ours.train(training)(x), reference.train(training)(x)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[key], rtol=1e-5, atol=1e-6)
    assert logits.shape[2:] == (64 // 2**n_layers - 2, 48 // 2**n_layers - 2)


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = PatchGANDiscriminator()
    conv, norm = model.main[8].weight, model.main[9]
    assert abs(conv.mean()) < 1e-4
    assert abs(conv.std() - 0.02) < 1e-4
    assert abs(norm.weight.mean() - 1) < 5e-3
    assert abs(norm.weight.std() - 0.02) < 5e-3
    assert (norm.bias == 0).all()


def test_smallest_image() -> None:
    model = PatchGANDiscriminator(ndf=4, n_layers=2)
    assert model(torch.zeros(2, 3, 12, 12)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"x must be at least 12 pixels.*got 12 x 11"):
        model(torch.zeros(2, 3, 12, 11))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"x must be \(B, C, H, W\) with C = 3"):
        PatchGANDiscriminator(ndf=4)(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        PatchGANDiscriminator(n_layers=0)
