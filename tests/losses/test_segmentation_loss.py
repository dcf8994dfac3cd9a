"""The loss of label maps, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vqgan_fast.losses import SegmentationLoss


def test_against_the_formula() -> None:
    torch.manual_seed(0)
    labels = torch.randint(5, (2, 4, 3))
    x = F.one_hot(labels, 5).movedim(-1, 1).float()
    x_hat = torch.randn(2, 5, 4, 3, requires_grad=True)
    quantizer_loss = torch.tensor(0.7, requires_grad=True)
    loss, logs = SegmentationLoss(0.5).generator_loss(x, x_hat, quantizer_loss, x_hat, 0)
    p = x_hat.detach().double().sigmoid()
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).mean() + 0.5 * 0.7
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    assert float(logs["rec_loss"]) == pytest.approx(float(expected) - 0.35, rel=1e-6)
    hits = sum(
        int(x_hat[b, :, i, j].argmax()) == int(labels[b, i, j])
        for b in range(2)
        for i in range(4)
        for j in range(3)
    )
    assert float(logs["accuracy"]) == pytest.approx(hits / 24)
    loss.backward()
    assert torch.allclose(x_hat.grad, ((p - x) / x.numel()).float(), atol=1e-7)
    assert float(quantizer_loss.grad) == 0.5


def test_it_has_no_discriminator() -> None:
    loss = SegmentationLoss()
    assert loss.discriminator is None
    assert not any(loss.gan_is_on(step) for step in (0, 10**9))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="codebook_weight must not be negative, got -1"):
        SegmentationLoss(-1)
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 2, 3, 3\) and \(1, 2, 3, 2\)"):
        SegmentationLoss().generator_loss(x, x[..., :2], torch.zeros(()), x, 0)
