"""Checkpoints and YAML files of the reference's own models, with random weights."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import taming_peer
import torch
import yaml
from skimage import data
from torch import Tensor, nn

VQGAN_CONFIG = {
    "codebook_size": 48, "embed_dim": 8, "ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1,
    "attn_resolutions": [16], "resolution": 64, "in_channels": 3, "out_ch": 3, "z_channels": 12,
    "dropout": 0.0, "double_z": False,
}  # fmt: skip
GPT_CONFIG = {
    "vocab_size": 60, "block_size": 257, "n_layer": 2, "n_head": 2, "n_embd": 32,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "n_unmasked": 0,
}  # fmt: skip
LOSS = {
    "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 10, "disc_ndf": 8, "disc_num_layers": 2},
}
VQMODEL = "taming.models.vqgan.VQModel"
GUMBELVQ = "taming.models.vqgan.GumbelVQ"
NET2NET = "taming.models.cond_transformer.Net2NetTransformer"


def photograph(side: int) -> Tensor:
    """The middle of scikit-image's astronaut, (1, 3, side, side) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(data.astronaut())).movedim(-1, 0)
    top, left = ((size - side) // 2 for size in pixels.shape[1:])
    return pixels[None, :, top : top + side, left : left + side] / 127.5 - 1


def vqgan_params(loss: dict[str, Any] | None = None) -> dict[str, Any]:
    params = taming_peer.vqgan_arguments(VQGAN_CONFIG)
    return copy.deepcopy({**params, **({"lossconfig": loss} if loss else {})})


def transformer_params() -> dict[str, Any]:
    gpt = {"target": "taming.modules.transformer.mingpt.GPT", "params": dict(GPT_CONFIG)}
    return {
        "cond_stage_key": "image",
        "cond_stage_config": "__is_unconditional__",
        "sos_token": 7,
        "pkeep": 0.9,
        "transformer_config": gpt,
        "first_stage_config": {"target": VQMODEL, "params": vqgan_params()},
    }


@functools.cache
def reference_vqgan() -> nn.Module:
    """A VQModel with its loss (discriminator, LPIPS), codes spread over the latents' range."""
    taming_peer.loss_class()
    taming_peer.vqgan(VQGAN_CONFIG)  # the stand-ins that the import below needs
    from taming.models.vqgan import VQModel

    torch.manual_seed(0)
    model = VQModel(**vqgan_params(LOSS))
    with torch.no_grad():
        model.quantize.embedding.weight.normal_(std=0.3)
    return model.eval()


@functools.cache
def reference_transformer() -> nn.Module:
    taming_peer.latent_transformer(VQGAN_CONFIG, GPT_CONFIG)
    from taming.models.cond_transformer import Net2NetTransformer

    torch.manual_seed(1)
    model = Net2NetTransformer(**transformer_params())
    model.first_stage_model.load_state_dict(
        {k: v for k, v in reference_vqgan().state_dict().items() if not k.startswith("loss.")}
    )
    torch.nn.init.normal_(model.transformer.pos_emb, std=0.02)
    return model.eval()


def lightning_checkpoint(model: nn.Module, **more: Any) -> dict[str, Any]:
    """What Lightning's trainer pickles: optimizers with their states, and the rest around it."""
    model.learning_rate = 1e-4
    optimizers = model.configure_optimizers()
    optimizers = optimizers[0] if isinstance(optimizers, tuple) else [optimizers]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # zero gradients: only the states come up; weight decay is undone
        optimizer.zero_grad()
    return {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "1.0.8",
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
        "lr_schedulers": [],
        **more,
    }


def write_yaml(folder: Path, target: str, params: dict[str, Any]) -> Path:
    config = folder / "project.yaml"
    model = {"base_learning_rate": 4.5e-6, "target": target, "params": params}
    config.write_text(yaml.safe_dump({"model": model, "data": {"target": "main.Data"}}))
    return config


def write(folder: Path, target: str, params: dict[str, Any], content: Any) -> tuple[Path, Path]:
    """last.ckpt and project.yaml in a folder."""
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt", write_yaml(folder, target, params)


def close(ours: Tensor, reference: Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest value: the layers' sums are fp32."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def small(tmp_path: Path, change=lambda weights, params: None, **more) -> tuple[Path, Path]:
    """Files of the VQGAN alone after a change to its weights and parameters."""
    reference = reference_vqgan().state_dict()
    weights = OrderedDict((k, v) for k, v in reference.items() if not k.startswith("loss."))
    params = vqgan_params()
    change(weights, params)
    return write(tmp_path, VQMODEL, params, {"state_dict": weights, **more})
