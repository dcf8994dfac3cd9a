"""The reference's module names where it is not installed, and its networks behind them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import taming_peer
import torch
from parity import latents

from vqgan_fast.compat.taming import install, models, networks, uninstall

DDCONFIG = {
    "double_z": False, "z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0,
}  # fmt: skip

# What VQGAN-CLIP and others read off the networks.
SIZES = ["ch", "temb_ch", "num_resolutions", "num_res_blocks", "resolution", "in_channels"]
# What latent diffusion, stable diffusion and VQGAN-CLIP import of the reference.
IMPORTS = """
from taming.modules.vqvae.quantize import VectorQuantizer2 as VectorQuantizer
from taming.modules.vqvae.quantize import GumbelQuantize
from taming.modules.losses.vqperceptual import *
from taming.modules.losses.vqperceptual import hinge_d_loss, vanilla_d_loss, adopt_weight
from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from taming.modules.losses.lpips import LPIPS
from taming.modules.diffusionmodules.model import Encoder, Decoder
from taming.models import cond_transformer, vqgan
import taming.modules
"""


def test_imports_without_the_reference() -> None:
    """In an interpreter that cannot see the installed one."""
    program = f"""
import importlib.util, sys
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "taming" else original(name, *args)
from vqgan_fast.compat.taming import install, uninstall
installed = install()
assert "taming.modules.vqvae.quantize" in installed
assert [original(name).name for name in installed] == installed
assert original("taming.modules.transformer") is None
{IMPORTS}
assert VectorQuantizer.__module__.startswith("vqgan_fast"), VectorQuantizer
assert vqgan.VQModel.__module__.startswith("vqgan_fast")
assert install() == install(shadow=True)
try:
    import taming.modules.transformer
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("a module that is not offered was found")
uninstall()
assert not any(name.split(".")[0] == "taming" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_reference_is_shadowed_only_if_asked() -> None:
    from taming.modules.vqvae import quantize

    assert install() == []
    assert sys.modules["taming.modules.vqvae.quantize"] is quantize
    try:
        assert "taming.modules.vqvae.quantize" in install(shadow=True)
        from taming.modules.vqvae.quantize import VectorQuantizer2

        assert VectorQuantizer2 is not quantize.VectorQuantizer2
    finally:
        uninstall()
    assert sys.modules["taming.modules.vqvae.quantize"] is quantize


@pytest.fixture
def peer():
    config = {
        key: value for key, value in DDCONFIG.items() if key != "double_z"
    } | {"codebook_size": 30, "embed_dim": 4}  # fmt: skip
    model = taming_peer.vqgan({**config, "double_z": False})
    model.quantize.embedding.weight.data.normal_()
    return model


def test_vqmodel(peer, tmp_path) -> None:
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "last.ckpt")
    ours = models.VQModel(DDCONFIG, None, 30, 4, ckpt_path=str(tmp_path / "last.ckpt"))
    assert ours.state_dict().keys() == peer.state_dict().keys()
    for part, sizes in (("encoder", SIZES), ("decoder", [*SIZES, "give_pre_end", "z_shape"])):
        for name in sizes:
            got, expected = (getattr(getattr(model, part), name) for model in (ours, peer))
            assert got == expected, name
    x = latents(2, 3, 16, 16)
    with torch.no_grad():
        (got, loss), (expected, expected_loss) = ours(x), peer(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-6)
        indices = ours.encode(x)[2][2]
        assert torch.equal(indices, peer.encode(x)[2][2])
        torch.testing.assert_close(ours.decode_code(indices.view(2, 8, 8)), got)
    del ours.loss
    fresh = models.VQModel(DDCONFIG, None, 30, 4)
    before = fresh.decoder.conv_in.weight.clone()
    fresh.init_from_ckpt(tmp_path / "last.ckpt", ignore_keys=["decoder"])
    assert torch.equal(fresh.decoder.conv_in.weight, before)
    assert torch.equal(fresh.quantize.embedding.weight, ours.quantize.embedding.weight)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"state_dict": {}, "hook": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"names exec, which no checkpoint"):
        models.VQModel(DDCONFIG, None, 30, 4, ckpt_path=str(tmp_path / "evil.ckpt"))


def test_gumbel_model() -> None:
    model = models.GumbelVQ(
        {**DDCONFIG, "z_channels": 4}, None, 30, 4, {"target": "anything"}, kl_weight=0.5
    )
    x = latents(2, 3, 16, 16)
    z_q, _, (_, _, indices) = model.encode(x)
    assert model.quantize.kl_weight == 0.5
    assert model.encode_to_prequant(x).shape == (2, 4, 8, 8)
    torch.testing.assert_close(model.decode_code(indices), model.decode(z_q))


def test_discriminator_and_initialisation() -> None:
    ours = networks.NLayerDiscriminator(3, 16, 2)
    peer = taming_peer.discriminator_class()(3, 16, 2)
    peer.load_state_dict(ours.state_dict())
    x = latents(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), peer(x))
    from taming.modules.discriminator.model import weights_init

    torch.manual_seed(3)
    ours.apply(networks.weights_init)
    torch.manual_seed(3)
    peer.apply(weights_init)
    torch.testing.assert_close(ours.state_dict(), peer.state_dict())


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: networks.Encoder(**{**DDCONFIG, "resamp_with_conv": False}), "resamp_with_conv"),
        (lambda: networks.Decoder(**DDCONFIG, give_pre_end=True), "give_pre_end"),
        (lambda: models.VQModel(DDCONFIG, None, 30, 4, colorize_nlabels=3), "colorize_nlabels"),
        (lambda: models.Net2NetTransformer(), "Net2NetTransformer"),
    ],
)
def test_what_is_not_covered(build, option: str) -> None:
    with pytest.raises(NotImplementedError, match=option):
        build()
