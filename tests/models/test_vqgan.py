"""VQGAN against the reference with the same weights, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import taming_peer
import torch
from torch import Tensor, nn

from vqgan_fast.models.decoder import Decoder
from vqgan_fast.models.encoder import Encoder
from vqgan_fast.models.vqgan import VQGAN

SMALL = {
    "codebook_size": 64,
    "embed_dim": 16,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "z_channels": 24,
    "dropout": 0.0,
    "double_z": False,
}
# f1, f2, f4, f8 and f16 (the published one), attention at none, one and several levels, other
# numbers of channels, blocks and images' channels. Sizes as published: only shapes are compared.
CONFIGS = {
    "f1": {"ch_mult": [1], "attn_resolutions": [], "z_channels": 3, "embed_dim": 3},
    "f2": {"ch_mult": [1, 2], "num_res_blocks": 3},
    "f4": {"ch_mult": [1, 2, 4], "attn_resolutions": [64, 128], "z_channels": 3, "embed_dim": 3},
    "f8": {"ch_mult": [1, 1, 2, 4], "attn_resolutions": [32], "in_channels": 1, "out_ch": 1},
    "f16": {},
    "dropout": {"dropout": 0.1, "num_res_blocks": 1},
    "large codebook": {"codebook_size": 16384, "embed_dim": 8, "in_channels": 183, "out_ch": 182},
}


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


def assert_close(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference relative to the largest value: the layers' sums are fp32."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def pair(config: dict) -> tuple[VQGAN, nn.Module]:
    """Our model and the reference's with our weights, codes spread over the latents' range."""
    torch.manual_seed(0)
    ours = VQGAN(**config).eval()
    with torch.no_grad():
        ours.quantize.embedding.weight.normal_(std=0.3)
    reference = taming_peer.vqgan(config).eval()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_is_the_references(name: str) -> None:
    with torch.device("meta"):
        ours = VQGAN(**CONFIGS[name])
        reference = taming_peer.vqgan(ours.config)
    assert shapes(ours) == shapes(reference)


@pytest.mark.parametrize("double_z", [False, True])
def test_encoder_and_decoder_equal_the_references(double_z: bool) -> None:
    torch.manual_seed(0)
    shape = {k: SMALL[k] for k in ("ch", "ch_mult", "num_res_blocks", "resolution", "z_channels")}
    shape["attn_resolutions"] = [8, 16]
    ours = Encoder(in_channels=3, double_z=double_z, **shape)
    reference = taming_peer.encoder_class()(in_channels=3, out_ch=3, double_z=double_z, **shape)
    assert shapes(ours) == shapes(reference)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 24, 16)
    assert_close(ours(x), reference(x))

    ours = Decoder(out_ch=5, **shape)
    reference = taming_peer.decoder_class()(in_channels=3, out_ch=5, **shape)
    assert shapes(ours) == shapes(reference)
    reference.load_state_dict(ours.state_dict())
    z = torch.randn(2, shape["z_channels"], 12, 8)
    assert_close(ours(z), reference(z))


@pytest.mark.parametrize(
    "change",
    [
        {"ch_mult": [1], "attn_resolutions": [16], "resolution": 16},
        {},
        {"ch_mult": [1, 1, 2, 2, 4], "resolution": 32, "attn_resolutions": [2, 4]},
    ],
    ids=["f1", "f2", "f16"],
)
def test_reconstruction_equals_the_references(change: dict) -> None:
    ours, reference = pair({**SMALL, **change})
    f = ours.downsampling_factor
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    x_hat, loss, info = ours(x)
    reference_x_hat, reference_loss = reference(x)
    assert_close(x_hat, reference_x_hat)
    assert_close(loss, reference_loss)
    assert info.indices.shape == (2, 32 // f, 48 // f)
    assert info.indices.unique().numel() > 1
    assert torch.equal(info.indices.flatten(), reference.encode(x)[2][2])


def test_gradients_equal_the_references() -> None:
    ours, reference = pair(SMALL)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    for forward in (ours, reference):
        x_hat, loss = forward(x)[:2]
        (loss + (x_hat - x).abs().mean()).backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    # Some gradients are rounding about zero, such as that of a bias before a normalisation.
    noise = 1e-6 * max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in ours.named_parameters():
        gradient = expected[name]
        assert (parameter.grad - gradient).abs().max() <= 1e-4 * gradient.abs().max() + noise, name


def test_codes_are_what_the_decoder_needs() -> None:
    ours, _ = pair(SMALL)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    x_hat, _, info = ours(x)
    indices = ours.encode_indices(x)
    assert torch.equal(indices, info.indices)
    assert_close(ours.decode_indices(indices), x_hat)
    assert ours.last_layer is ours.decoder.conv_out.weight


def test_double_z_runs() -> None:
    model = VQGAN(**{**SMALL, "double_z": True})
    assert model(torch.zeros(1, 3, 16, 16))[0].shape == (1, 3, 16, 16)


def test_bf16_autocast_trains() -> None:
    ours, _ = pair(SMALL)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        x_hat, loss, _ = ours(x)
    assert x_hat.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    (loss + x_hat.float().square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


def test_save_and_load(tmp_path) -> None:
    model = VQGAN(**SMALL)
    model.save_pretrained(tmp_path / "vqgan")
    loaded = VQGAN.from_pretrained(tmp_path / "vqgan")
    assert loaded.config == model.config
    assert not loaded.training
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(x)[0], model.eval()(x)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 0}, "codebook_size must be at least 1, got 0"),
        ({"ch": 48}, r"ch must be a multiple of 32.*ch_mult.*got ch = 48"),
        ({"ch_mult": []}, "ch_mult must be a non-empty list"),
        ({"ch_mult": [1, 0]}, "ch_mult must be a non-empty list of positive integers"),
        ({"ch_mult": [1.0, 2.0]}, "ch_mult must be a non-empty list of positive integers"),
        ({"resolution": 16.0}, r"resolution must be an integer, got 16\.0"),
        ({"resolution": 17}, "resolution must be a multiple of the downsampling factor 2.*got 17"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"beta": -1.0}, "beta must not be negative, got -1.0"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQGAN(**{**SMALL, **change})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 16, 15), "downsampling factor 2, got 16 x 15"),
        (torch.zeros(1, 1, 16, 16), r"x must be \(B, C, H, W\) with C = 3, got \(1, 1, 16, 16\)"),
        (torch.zeros(3, 16, 16), r"got \(3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"floating point in \[-1, 1\]"),
        (torch.zeros(1, 3, 16, 16).double(), r"x must be torch.float32, .* got torch.float64"),
        (torch.zeros(1, 3, 16, 16).half(), r"x must be torch.float32, .* got torch.float16"),
    ],
)
def test_bad_images(x: Tensor, message: str) -> None:
    model = VQGAN(**SMALL)
    with pytest.raises(ValueError, match=message):
        model.encode(x)
    with pytest.raises(ValueError, match=message):
        model.encode_indices(x)


def test_an_array_is_no_picture() -> None:
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got ndarray"):
        VQGAN(**SMALL).encode_indices(np.zeros((1, 3, 16, 16), np.float32))


def test_autocast_takes_pictures_of_its_own_type() -> None:
    model, x = VQGAN(**SMALL).eval(), torch.rand(1, 3, 16, 16).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode_indices(x), model.encode_indices(x.float()))
        with pytest.raises(ValueError, match=r"x must be torch.float32, .* got torch.float64"):
            model.encode_indices(x.double())
    with torch.no_grad():
        model.bfloat16().encode_indices(x)


def test_bad_codes() -> None:
    model = VQGAN(**SMALL)
    with pytest.raises(ValueError, match=r"indices must be \(B, h, w\), got \(4, 4\)"):
        model.decode_indices(torch.zeros(4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 64\), got 64"):
        model.decode_indices(torch.full((1, 4, 4), 64))
