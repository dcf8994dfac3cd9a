"""guide: the score rises, through the quantiser, and nothing of the model changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vqgan_fast.guidance import RandomCrops, guide
from vqgan_fast.guidance.scores import clamp_with_gradient
from vqgan_fast.models import VQGAN
from vqgan_fast.quantizers.build import QUANTIZERS


def tiny_vqgan(quantizer: str = "vector", **options: object) -> VQGAN:
    """f2, with codes far enough apart to matter and a decoder whose pictures differ."""
    torch.manual_seed(0)
    vqgan = VQGAN(
        codebook_size=32, embed_dim=4, ch=32, ch_mult=(1, 1), num_res_blocks=1,
        attn_resolutions=(), resolution=16, z_channels=8, quantizer=quantizer,
        quantizer_options=options,
    )  # fmt: skip
    with torch.no_grad():
        vqgan.quantize.codebook.normal_()
        vqgan.decoder.conv_out.weight.mul_(0.6)
    return vqgan.eval()


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan()


START = torch.randint(32, (2, 8, 8), generator=torch.Generator().manual_seed(1))


def redness(images):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


@pytest.mark.parametrize("through", ["latents", "codes"])
@pytest.mark.parametrize("crops", [None, RandomCrops(number=3, size=12, noise=0.1)])
def test_the_score_of_the_decoded_codes_rises(vqgan, through, crops):
    before = redness(vqgan.decode_indices(START).clamp(-1, 1)).detach()
    found = guide(vqgan, redness, START, steps=30, through=through, crops=crops)
    assert found.images.shape == (2, 3, 16, 16)
    assert found.codes.shape == START.shape
    assert not torch.equal(found.codes, START)
    torch.testing.assert_close(found.images, vqgan.decode_indices(found.codes).clamp(-1, 1))
    # Random codes give 0.031 with a deviation of 0.003.
    assert (redness(found.images) > before + (0.02 if crops is None else 0.005)).all()
    assert found.scores[-5:].mean() > found.scores[:5].mean() + 0.02
    assert len(found.scores) == 30


def test_the_gradient_is_the_straight_through_one(vqgan):
    """One step of plain torch: Adam's first step is the sign of the gradient at z_q."""
    z_q = vqgan.quantize.lookup(START).detach().requires_grad_()
    images = vqgan.decode(z_q)
    redness(images).mean().backward()
    step = 0.05 * vqgan.quantize.codebook.std()
    low, high = (bound[:, None, None] for bound in vqgan.quantize.codebook.detach().aminmax(dim=0))
    expected = (z_q + step * z_q.grad.sign()).detach().clamp(low, high)
    assert images.abs().max() < 1, "the clamp would change the gradient"
    found = guide(vqgan, redness, START, steps=1, learning_rate=0.05)
    assert torch.equal(found.codes, vqgan.quantize.encode(expected))


def test_several_scores_and_their_weights_add_up(vqgan):
    seen = []

    def remember(images):
        seen.append(images)
        return images.mean()

    found = guide(vqgan, [(redness, 2.0), (remember, -0.5)], START, steps=1)
    expected = 2 * redness(seen[0]).mean() - 0.5 * seen[0].mean()
    assert float(found.scores[0]) == pytest.approx(float(expected.detach()))


def test_the_model_is_left_as_it_was():
    vqgan = tiny_vqgan("ema").train()
    vqgan.decoder.conv_in.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in vqgan.state_dict().items()}
    found = guide(vqgan, redness, START, steps=2)
    assert vqgan.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in vqgan.state_dict().items())
    frozen = [name for name, p in vqgan.named_parameters() if not p.requires_grad]
    assert "decoder.conv_in.weight" in frozen
    assert "decoder.conv_out.weight" not in frozen
    assert all(p.grad is None for p in vqgan.parameters())
    assert not found.images.requires_grad


def test_the_same_seed_gives_the_same_pictures(vqgan):
    crops = RandomCrops(number=2, size=8)
    first, again, other = (
        guide(vqgan, redness, START, steps=5, crops=crops, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.scores, again.scores)
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.scores, other.scores)


def test_the_average_of_the_latents(vqgan):
    """A decay of 0 is the last latents themselves; the first of an average is the latent too."""
    last = guide(vqgan, redness, START, steps=4)
    assert torch.equal(guide(vqgan, redness, START, steps=4, ema_decay=0.0).codes, last.codes)
    one = guide(vqgan, redness, START, steps=1)
    assert torch.equal(guide(vqgan, redness, START, steps=1, ema_decay=0.9).codes, one.codes)
    slow = guide(vqgan, redness, START, steps=4, ema_decay=0.99)
    assert not torch.equal(slow.codes, last.codes)


OPTIONS = {"residual": {"num_quantizers": 2}, "hierarchical": {"channels": 8}}


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_pictures_are_started_from_with_every_quantiser(quantizer):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vqgan = tiny_vqgan(quantizer, **OPTIONS.get(quantizer, {}))
    with torch.no_grad():  # latents all around the codes, so that many of these are chosen
        vqgan.quant_conv.bias -= vqgan.quant_conv(vqgan.encoder(images)).mean((0, 2, 3))
    if quantizer == "gumbel":  # so sure of a code that none of its draws is another
        vqgan.quantize.proj.weight.data.mul_(1e6)
    seen = []
    found = guide(
        vqgan, redness, images, steps=3, callback=lambda step, score, images: seen.append(images)
    )
    reconstruction = vqgan.decode_indices(vqgan.encode_indices(images)).clamp(-1, 1)
    torch.testing.assert_close(seen[0], reconstruction)
    assert found.images.shape == images.shape
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_codes_are_started_from_where_they_are_nearest_to_themselves(quantizer):
    vqgan = tiny_vqgan(quantizer, **OPTIONS.get(quantizer, {}))
    codes = vqgan.encode_indices(torch.rand(1, 3, 16, 16) * 2 - 1)
    if quantizer in ("vector", "ema", "cosine", "simvq"):
        for through in ("latents", "codes"):
            found = guide(vqgan, redness, codes, steps=1, learning_rate=1e-9, through=through)
            assert torch.equal(found.codes, codes)
        return
    with pytest.raises(ValueError, match=r"start must be images for a .*Quantizer, whose"):
        guide(vqgan, redness, codes, steps=1)
    with pytest.raises(ValueError, match='through must be "latents" for a quantiser whose codes'):
        guide(vqgan, redness, torch.zeros(1, 3, 16, 16), steps=1, through="codes")


def test_the_seed_decides_what_a_gumbel_quantiser_draws():
    vqgan = tiny_vqgan("gumbel")
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    first, again, other = (guide(vqgan, redness, images, steps=2, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, other.scores)


def test_clamp_keeps_the_way_back():
    x = torch.tensor([-2.0, -2.0, 0.5, 2.0, 2.0], requires_grad=True)
    clamp_with_gradient(x).backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [1, 0, 1, 0, -1]


def test_crops_are_views_of_the_picture():
    rows = torch.linspace(-1, 1, 20).view(1, 1, 20, 1).expand(2, 3, 20, 30)
    crops = RandomCrops(number=6, size=10, smallest=0.5)(rows, torch.Generator().manual_seed(0))
    assert crops.shape == (12, 3, 10, 10)
    assert crops.min() >= -1
    assert crops.max() <= 1
    heights = (crops[:, 0, -1, 0] - crops[:, 0, 0, 0]).unique()
    assert len(heights) > 3, "crops of several sizes"
    assert (crops[:, 0].diff(dim=1) > 0).all(), "rows stay in their order"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"through": "pixels"}, "through must be one of latents, codes, got 'pixels'"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"score": []}, "at least one"),
        ({"score": [redness]}, "pairs"),
        ({"score": 3}, "score must be a callable or .* pairs, got 3"),
        ({"score": [(redness, "1")]}, "the weight of a score must be a finite number, got '1'"),
        ({"score": [(redness, math.nan)]}, "the weight of a score must be a finite number"),
        ({"crops": 16}, "crops must be RandomCrops, .* or None, got 16"),
        ({"seed": "a"}, "seed must be an integer, got 'a'"),
        ({"seed": 2**64}, f"seed must be at most {2**64 - 1}, got {2**64}"),
        ({"start": np.zeros((1, 3, 16, 16))}, "start must be a torch.Tensor, got ndarray"),
        ({"score": lambda x: x}, r"score must return a scalar or \(2,\)"),
        ({"score": lambda x: x.mean() / 0}, "score must be finite"),
        ({"score": lambda x: x.detach().mean()}, "differentiable"),
        ({"start": torch.full((1, 8, 8), 32)}, "indices"),
        ({"start": torch.zeros(1, 3, 15, 16)}, "multiples of the downsampling factor"),
        ({"start": torch.zeros(3, 16, 16)}, r"start must be \(B, C, H, W\) with C = 3"),
        (
            {"start": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)},
            r"start must be images .* floating point .* got torch.uint8 of shape \(1, 3, 16, 16\)",
        ),
        ({"start": torch.zeros(8, 8, dtype=torch.int64)}, r"start must be images .* \(8, 8\)"),
    ],
)
def test_bad_arguments(vqgan, change, message):
    arguments = {"score": redness, "start": START, "steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        guide(vqgan, **arguments)


def test_numbers_of_numpy_and_torch_are_numbers(vqgan):
    expected = guide(vqgan, [(redness, 2.0)], START, steps=2, seed=3)
    score = [(redness, torch.tensor(2.0))]
    found = guide(vqgan, score, START, steps=2, seed=np.int64(3))
    assert torch.equal(found.images, expected.images)
