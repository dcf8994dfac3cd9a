"""VQGANLoss against the reference's loss, and what the reference leaves open."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import taming_peer
import torch
from ranks import run_on_two_ranks
from torch import nn

from vqgan_fast.losses import PerceptualLoss, VQGANLoss

START = 10
SIZES = {"disc_num_layers": 2, "disc_ndf": 8}
RTOL = 1e-5  # measured: below 1e-6 on every term, below 1e-6 of the largest entry on gradients


class TinyDecoder(nn.Module):
    """What the loss sees of an autoencoder: x_hat, made by a last convolution."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 8, 3, padding=1)
            self.conv_out = nn.Conv2d(8, 3, 3, padding=1)

    @property
    def last_layer(self):
        return self.conv_out.weight

    def forward(self, x):
        return self.conv_out(torch.tanh(self.body(x)))


@pytest.fixture(scope="module")
def vgg():
    return PerceptualLoss("vgg", "random", seed=1)


@pytest.fixture(scope="module")
def squeeze():
    return PerceptualLoss("squeeze", "random", seed=1)


def make_loss(perceptual, **options):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return VQGANLoss(START, perceptual=perceptual, **SIZES, **options)


def images(batch=4, size=32, seed=3):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def step_of(loss, decoder, x, step):
    """One batch: both losses and logs, and every gradient of each, by parameter name."""
    x_hat = decoder(x)
    quantizer_loss = decoder.body.weight.square().mean()
    g_loss, g_logs = loss.generator_loss(x, x_hat, quantizer_loss, decoder.last_layer, step)
    d_loss, d_logs = loss.discriminator_loss(x, x_hat, step)
    g_loss.backward()
    assert all(parameter.grad is None for parameter in loss.discriminator.parameters())
    d_loss.backward()
    return (g_loss, g_logs, gradients_of(decoder)), (d_loss, d_logs, gradients_of(loss))


def gradients_of(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def make_reference(loss, disc_loss, monkeypatch, **options):
    """The reference's loss with our discriminator's and perceptual network's weights inside."""
    reference_class = taming_peer.loss_class()
    from taming.modules.losses import lpips as taming_lpips
    from torchvision.models import vgg

    def vgg16_without_classifier(pretrained):
        return SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))

    monkeypatch.setattr(taming_lpips, "models", SimpleNamespace(vgg16=vgg16_without_classifier))
    reference = reference_class(START, disc_loss=disc_loss, **SIZES, **options)
    reference.discriminator.load_state_dict(loss.discriminator.state_dict())
    weights = loss.perceptual_loss.lpips.state_dict()
    reference.perceptual_loss.load_state_dict(
        {name: tensor for name, tensor in weights.items() if not name.startswith("lins.")}
    )
    return reference


@pytest.mark.parametrize("step", [START - 1, START])
@pytest.mark.parametrize("disc_loss", ["hinge", "vanilla"])
def test_every_term_and_gradient_agrees_with_the_reference(vgg, monkeypatch, disc_loss, step):
    options = {
        "codebook_weight": 0.7,
        "perceptual_weight": 1.3,
        "disc_weight": 0.6,
        "disc_factor": 0.9,
    }
    loss = make_loss(vgg, disc_loss=disc_loss, **options)
    reference = make_reference(loss, disc_loss, monkeypatch, **options)
    x, decoder = images(), TinyDecoder()
    peer = copy.deepcopy(decoder)
    (_, g_logs, g_gradients), (_, d_logs, d_gradients) = step_of(loss, decoder, x, step)

    x_hat = peer(x)
    quantizer_loss = peer.body.weight.square().mean()
    peer_loss, peer_g_logs = reference(
        quantizer_loss, x, x_hat, 0, step, last_layer=peer.last_layer
    )
    peer_loss.backward()
    reference.zero_grad()
    peer_loss, peer_d_logs = reference(quantizer_loss, x, x_hat.detach(), 1, step)
    peer_loss.backward()

    game_is_on = step >= START
    # Before the start the reference works these out and multiplies them by 0; here they are 0.
    skipped = set() if game_is_on else {"g_loss", "d_weight", "logits_real", "logits_fake"}
    logs, peer_logs = {**g_logs, **d_logs}, {**peer_g_logs, **peer_d_logs}
    assert {f"train/{name}" for name in logs} == set(peer_logs)
    for name, value in logs.items():
        assert not value.requires_grad and value.dim() == 0, name
        if name in skipped:
            assert value == 0, name
        else:
            expected = peer_logs[f"train/{name}"].to(value.dtype)
            torch.testing.assert_close(value, expected, rtol=RTOL, atol=0)
    assert_gradients_agree(g_gradients, gradients_of(peer))
    if game_is_on:
        assert_gradients_agree(d_gradients, gradients_of(reference))
        assert logs["d_weight"] > 0
    else:
        assert d_gradients == {}


def assert_gradients_agree(gradients, expected):
    assert gradients.keys() == expected.keys() != set()
    for name, gradient in gradients.items():
        atol = RTOL * float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=RTOL, atol=atol)


def test_discriminator_is_not_run_before_disc_start(squeeze):
    loss = make_loss(squeeze)
    calls = []
    loss.discriminator.register_forward_hook(lambda *_: calls.append(1))
    assert not loss.gan_is_on(START - 1) and loss.gan_is_on(START)
    step_of(loss, TinyDecoder(), images(), START - 1)
    assert len(calls) == 0
    step_of(loss, TinyDecoder(), images(), START)
    assert len(calls) == 3


def test_disc_factor_zero_switches_the_game_off(squeeze):
    loss = make_loss(squeeze, disc_factor=0.0)
    assert not loss.gan_is_on(START)
    (_, logs, _), (d_loss, _, d_gradients) = step_of(loss, TinyDecoder(), images(), START)
    assert logs["g_loss"] == 0 and d_loss == 0 and d_gradients == {}


def test_without_gradients_lambda_is_zero_and_the_terms_are_still_told(squeeze):
    loss, decoder, x = make_loss(squeeze), TinyDecoder(), images()
    (_, trained, _), (_, trained_d, _) = step_of(loss, decoder, x, START)
    with torch.no_grad():
        x_hat = decoder(x)
        quantizer_loss = decoder.body.weight.square().mean()
        value, logs = loss.generator_loss(x, x_hat, quantizer_loss, decoder.last_layer, START)
        d_loss, d_logs = loss.discriminator_loss(x, x_hat, START)
    assert logs["d_weight"] == 0
    torch.testing.assert_close(value, logs["nll_loss"] + quantizer_loss)
    for name in ("nll_loss", "p_loss", "g_loss", "quant_loss"):
        torch.testing.assert_close(logs[name], trained[name])
    torch.testing.assert_close(d_loss, trained_d["disc_loss"])
    torch.testing.assert_close(d_logs["logits_fake"], trained_d["logits_fake"])


def test_perceptual_weight_zero_needs_no_perceptual_network():
    loss = make_loss(None, perceptual_weight=0)
    assert loss.perceptual_loss is None
    x, decoder = images(), TinyDecoder()
    (_, logs, _), _ = step_of(loss, decoder, x, 0)
    assert logs["p_loss"] == 0
    torch.testing.assert_close(logs["rec_loss"], (x - decoder(x)).abs().mean())


def test_lambda_is_clamped(squeeze):
    loss = make_loss(squeeze, disc_weight=0.5, perceptual_weight=1e4)
    decoder = TinyDecoder()
    for parameter in loss.discriminator.parameters():
        nn.init.zeros_(parameter)  # g has no gradient: lambda = |grad nll| / 1e-4
    (_, logs, _), _ = step_of(loss, decoder, images(), START)
    assert logs["d_weight"] == 0.5 * 1e4


def test_non_finite_gan_gradient_leaves_the_gan_term_out(squeeze):
    x = images()
    broken, calm = make_loss(squeeze), make_loss(squeeze)
    with torch.no_grad():
        broken.discriminator.main[0].weight.fill_(torch.inf)
    decoder, peer = TinyDecoder(), TinyDecoder()
    for loss, model, step in ((broken, decoder, START), (calm, peer, START - 1)):
        value, logs = loss.generator_loss(x, model(x), torch.zeros(()), model.last_layer, step)
        value.backward()
        assert logs["d_weight"] == 0
        assert value.isfinite()
    for name, gradient in gradients_of(decoder).items():
        torch.testing.assert_close(gradient, gradients_of(peer)[name])


def test_non_finite_reconstruction_is_not_hidden(squeeze):
    x, decoder = images(), TinyDecoder()
    with torch.no_grad():
        decoder.conv_out.bias[0] = torch.nan
    value, logs = make_loss(squeeze).generator_loss(
        x, decoder(x), torch.zeros(()), decoder.last_layer, START
    )
    assert value.isnan() and logs["nll_loss"].isnan()
    assert logs["d_weight"] == 0


def test_bfloat16_autocast_keeps_losses_in_fp32_and_near_fp32(squeeze):
    x = images()
    (_, expected, _), (_, expected_d, _) = step_of(make_loss(squeeze), TinyDecoder(), x, START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, decoder = make_loss(squeeze), TinyDecoder()
        x_hat = decoder(x)
        assert x_hat.dtype == torch.bfloat16
        value, logs = loss.generator_loss(
            x, x_hat, decoder.body.weight.square().mean(), decoder.last_layer, START
        )
        d_loss, d_logs = loss.discriminator_loss(x, x_hat, START)
    value.backward()
    d_loss.backward()
    assert value.dtype == d_loss.dtype == torch.float32
    assert decoder.last_layer.grad.isfinite().all()
    for name, term in {**logs, **d_logs}.items():
        # bf16 keeps 8 bits; lambda, a ratio of two gradients through four layers, loses most.
        target = {**expected, **expected_d}[name].to(term.dtype)
        torch.testing.assert_close(term, target, rtol=0.08, atol=5e-3)


def test_a_loss_scale_saves_gradients_from_float16s_range():
    x, loss = images(size=256), make_loss(None, perceptual_weight=0)
    gradients = []
    for scale, dtype in ((1.0, torch.float32), (2.0**16, torch.float16)):
        decoder = TinyDecoder()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            x_hat = decoder(x)
            value, _ = loss.generator_loss(x, x_hat, torch.zeros(()), decoder.last_layer, 0)
        assert x_hat.dtype == dtype
        (value * scale).backward()
        gradients.append(decoder.last_layer.grad / scale)
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert error < 3e-3  # measured: 5e-4, and 1.5e-2 if each pixel's is rounded before the scale


def run_rank(rank, folder):
    loss = make_loss(PerceptualLoss("squeeze", "random", seed=1))
    loss.discriminator.eval()  # batch statistics over ranks are the discriminator's own affair
    decoder, x = TinyDecoder(), images()[2 * rank : 2 * rank + 2]
    value, logs = loss.generator_loss(x, decoder(x), torch.zeros(()), decoder.last_layer, START)
    value.backward()
    torch.save((logs, gradients_of(decoder)), folder / f"{rank}.pt")


def test_two_ranks_share_one_lambda_that_of_the_double_batch(squeeze, tmp_path):
    run_on_two_ranks(run_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    loss, decoder, x = make_loss(squeeze), TinyDecoder(), images()
    loss.discriminator.eval()
    value, logs = loss.generator_loss(x, decoder(x), torch.zeros(()), decoder.last_layer, START)
    value.backward()
    for rank_logs, _ in ranks:
        torch.testing.assert_close(rank_logs["d_weight"], logs["d_weight"], rtol=1e-5, atol=0)
    assert ranks[0][0]["nll_loss"] != ranks[1][0]["nll_loss"]
    for name, gradient in gradients_of(decoder).items():
        mean = (ranks[0][1][name] + ranks[1][1][name]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


def test_bad_input_is_named(squeeze):
    with pytest.raises(ValueError, match="disc_loss must be one of hinge, vanilla, got 'wgan'"):
        make_loss(squeeze, disc_loss="wgan")
    for name in ("codebook_weight", "perceptual_weight", "disc_weight", "disc_factor"):
        with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
            make_loss(squeeze, **{name: -1.0})
    loss, decoder, x = make_loss(squeeze), TinyDecoder(), images()
    frozen = decoder.last_layer.detach()
    with pytest.raises(ValueError, match="last_layer must require a gradient"):
        loss.generator_loss(x, decoder(x), torch.zeros(()), frozen, START)
    with pytest.raises(ValueError, match="same shape"):
        loss.generator_loss(x[:1], decoder(x), torch.zeros(()), decoder.last_layer, 0)
    with pytest.raises(ValueError, match="same shape"):
        loss.discriminator_loss(x[:1], decoder(x), 0)
