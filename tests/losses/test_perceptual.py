"""PerceptualLoss: what runs, what is refused, and where gradients go."""

from __future__ import annotations

import http.client
import urllib.error
import warnings

import pytest
import torch
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from vqgan_fast.losses import PerceptualLoss, PerceptualWeightsError
from vqgan_fast.losses.perceptual import SMALLEST_SIDES

SQUEEZE_FILE = SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """An empty torch hub and no network; the list of the addresses that were asked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def refuse(request, timeout=None):
        assert timeout is not None, "a request without a time limit can hang"
        asked.append(request.full_url)
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return asked


@pytest.fixture(scope="module")
def squeeze():
    return PerceptualLoss("squeeze", "random", seed=3)


def image_pair(batch=2, channels=3, size=48):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, channels, size, size, generator=generator) * 2 - 1
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_distance_is_zero_for_equal_images_and_positive_otherwise(squeeze, channels):
    x, x_hat = image_pair(channels=channels)
    assert squeeze(x, x_hat).shape == (2, 1, 1, 1)
    assert (squeeze(x, x_hat) > 1e-4).all()
    assert (squeeze(x, x) == 0).all()


@pytest.mark.parametrize("net", SMALLEST_SIDES)
def test_a_picture_too_small_for_the_network_is_named(net):
    loss, least = PerceptualLoss(net, "random"), SMALLEST_SIDES[net]
    for height, width in ((least, 64), (64, least)):
        assert torch.isfinite(loss(*torch.rand(2, 1, 3, height, width)))
    for height, width in ((least - 1, 64), (64, least - 1)):
        with pytest.raises(ValueError, match=f"at least {least} pixels .* got {height} x {width}"):
            loss(*torch.rand(2, 1, 3, height, width))
        with pytest.raises(RuntimeError):  # it is no more than the network needs
            loss.lpips(*torch.rand(2, 1, 3, height, width))


def test_random_features_are_a_function_of_the_seed_and_leave_the_global_state_alone():
    x, x_hat = image_pair()
    torch.manual_seed(5)
    expected_draw = torch.rand(4)
    torch.manual_seed(5)
    first = PerceptualLoss("squeeze", "random", seed=1)
    assert torch.equal(torch.rand(4), expected_draw)
    torch.manual_seed(6)
    same = PerceptualLoss("squeeze", "random", seed=1)
    other = PerceptualLoss("squeeze", "random", seed=2)
    assert torch.equal(first(x, x_hat), same(x, x_hat))
    assert not torch.equal(first(x, x_hat), other(x, x_hat))
    assert "random" in first.description and "seed 1" in first.description


def test_is_frozen_in_eval_mode_and_gradients_reach_x_hat_only(squeeze):
    wrapper = torch.nn.Sequential(squeeze)
    wrapper.train()
    assert not any(module.training for module in squeeze.modules())
    assert not any(parameter.requires_grad for parameter in squeeze.parameters())
    x, x_hat = image_pair()
    x.requires_grad_()
    x_hat.requires_grad_()
    squeeze(x, x_hat).sum().backward()
    assert x.grad is None
    assert x_hat.grad.abs().sum() > 0


def test_pretrained_weights_are_read_from_torch_hub(no_network, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        backbone = squeezenet1_1(weights=None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(backbone.state_dict(), folder / SQUEEZE_FILE)
    for weights in ("pretrained", "auto"):
        loss = PerceptualLoss("squeeze", weights)
        assert "pretrained on ImageNet" in loss.description
        assert torch.equal(loss.lpips.net.slice1[0].weight, backbone.features[0].weight)
    assert no_network == []


def test_pretrained_weights_that_cannot_be_had_say_where_they_belong(no_network, tmp_path):
    with pytest.raises(PerceptualWeightsError) as error:
        PerceptualLoss("vgg", "pretrained")
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in message
    assert "TORCH_HOME" in message
    assert "perceptual_weights: random" in message
    assert "no network in this test" in message
    assert len(no_network) == 1 and no_network[0].endswith("vgg16-397923af.pth")


def test_an_answer_that_is_not_http_is_no_network(no_network, monkeypatch):
    def answer(request, timeout=None):
        raise http.client.BadStatusLine("<html>")

    monkeypatch.setattr("urllib.request.urlopen", answer)
    with pytest.raises(PerceptualWeightsError, match="cannot be fetched"):
        PerceptualLoss("squeeze", "pretrained")


def test_damaged_pretrained_weights_are_an_error_with_their_path(no_network, tmp_path):
    path = tmp_path / "hub" / "checkpoints" / SQUEEZE_FILE
    path.parent.mkdir(parents=True)
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(PerceptualWeightsError, match="damaged") as error:
            PerceptualLoss("squeeze", "pretrained")
        assert str(path) in str(error.value)


def test_auto_falls_back_to_random_features_and_says_so(no_network):
    with pytest.warns(UserWarning, match="uses RANDOM squeeze features"):
        loss = PerceptualLoss("squeeze", "auto", seed=3)
    assert "random features" in loss.description
    x, x_hat = image_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(loss(x, x_hat), PerceptualLoss("squeeze", "random", seed=3)(x, x_hat))


def test_construction_prints_nothing(capfd):
    PerceptualLoss("squeeze", "random")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("resnet", "random"), "net must be one of"), (("vgg", "imagenet"), "weights must be one of")],
)
def test_unknown_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(*arguments)


def test_wrong_shapes_are_refused(squeeze):
    x, x_hat = image_pair()
    with pytest.raises(ValueError, match="same shape"):
        squeeze(x, x_hat[:1])
    with pytest.raises(ValueError, match="x must be"):
        squeeze(x[:, :2], x_hat[:, :2])
