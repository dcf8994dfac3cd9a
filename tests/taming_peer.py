"""The reference implementation, from PyPI's `taming-transformers-rom1504`, made importable.

The package was written for older libraries: it imports a name that transformers has dropped and
wants pytorch-lightning, of which only base classes matter here, and its perceptual loss downloads
weights with requests. Each function below puts stand-ins in place and returns one of its classes,
or for whole models an instance.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from typing import Any

import torchvision
from torch import nn


def encoder_class() -> type[nn.Module]:
    """Encoder(ch, out_ch, ch_mult, num_res_blocks, attn_resolutions, ..., double_z=True)."""
    from taming.modules.diffusionmodules.model import Encoder

    return Encoder


def decoder_class() -> type[nn.Module]:
    """Decoder, constructed with the encoder's arguments."""
    from taming.modules.diffusionmodules.model import Decoder

    return Decoder


def discriminator_class() -> type[nn.Module]:
    """NLayerDiscriminator(input_nc, ndf, n_layers, use_actnorm); not yet initialised N(0, .02)."""
    from taming.modules.discriminator.model import NLayerDiscriminator

    return NLayerDiscriminator


def vector_quantizer_class() -> type[nn.Module]:
    """VectorQuantizer2(n_e, e_dim, beta, ..., legacy=True)."""
    from taming.modules.vqvae.quantize import VectorQuantizer2

    return VectorQuantizer2


def gpt_class() -> type[nn.Module]:
    """GPT(vocab_size, block_size, n_layer, n_head, n_embd, ...): forward gives (logits, loss)."""
    import transformers

    transformers.top_k_top_p_filtering = None
    from taming.modules.transformer.mingpt import GPT

    return GPT


def loss_class() -> type[nn.Module]:
    """VQLPIPSWithDiscriminator whose VGG16 has random weights instead of downloaded ones."""
    _stand_in("requests")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        from taming.modules.losses import lpips, vqperceptual

    lpips.LPIPS.load_from_pretrained = lambda self, name="vgg_lpips": None
    lpips.models = types.SimpleNamespace(
        vgg16=lambda pretrained: torchvision.models.vgg16(weights=None)
    )
    return vqperceptual.VQLPIPSWithDiscriminator


def target(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """What the reference builds an object from."""
    return {"target": name, "params": params}


def vqgan(config: dict[str, Any]) -> nn.Module:
    """VQModel without a loss, for the constructor arguments of our VQGAN (legacy placement)."""
    loss_class()
    _stand_in_for_lightning()
    from taming.models.vqgan import VQModel

    return VQModel(**vqgan_arguments(config))


def vqgan_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """VQModel's arguments for those of our VQGAN."""
    ddconfig = {k: v for k, v in config.items() if k not in QUANTIZER_KEYS}
    return {
        "ddconfig": ddconfig,
        "lossconfig": target("taming.modules.losses.vqperceptual.DummyLoss", {}),
        "n_embed": config["codebook_size"],
        "embed_dim": config["embed_dim"],
    }


QUANTIZER_KEYS = {"codebook_size", "embed_dim", "beta", "legacy"}


def latent_transformer(
    vqgan_config: dict[str, Any], gpt_config: dict[str, Any], **kwargs: Any
) -> nn.Module:
    """Net2NetTransformer, unconditional, for the arguments of our VQGAN and GPT."""
    loss_class()
    gpt_class()
    _stand_in_for_lightning()
    from taming.models.cond_transformer import Net2NetTransformer

    first_stage = vqgan_arguments(vqgan_config)
    return Net2NetTransformer(
        transformer_config=target("taming.modules.transformer.mingpt.GPT", gpt_config),
        first_stage_config=target("taming.models.vqgan.VQModel", first_stage),
        cond_stage_config="__is_unconditional__",
        **kwargs,
    )


def _stand_in_for_lightning() -> None:
    """The names that the reference imports from pytorch-lightning."""
    if _is_available("pytorch_lightning"):
        return
    _stand_in(
        "pytorch_lightning",
        LightningModule=nn.Module,
        LightningDataModule=object,
        seed_everything=None,
    )
    _stand_in("pytorch_lightning.trainer", Trainer=object)
    callbacks = dict.fromkeys(("ModelCheckpoint", "Callback", "LearningRateMonitor"), object)
    _stand_in("pytorch_lightning.callbacks", **callbacks)
    _stand_in("pytorch_lightning.utilities")
    _stand_in("pytorch_lightning.utilities.distributed", rank_zero_only=lambda function: function)


def _is_available(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _stand_in(name: str, **attributes: Any) -> None:
    """Puts a module with only these attributes in place of one that is not installed."""
    if "." in name or not _is_available(name):
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
