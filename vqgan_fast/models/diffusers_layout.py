"""A VQGAN in the layout of diffusers' VQModel: config.json and diffusion_pytorch_model.safetensors.

The networks are the same; names differ, the decoder's levels count from the lowest resolution, and
the projections of an attention are Linear layers instead of 1x1 convolutions.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .config_error import ConfigError
from .fit_weights import build_with_weights
from .layers import GROUPS
from .plain_codes import check_plain_codes, is_moving_average
from .pretrained import write_model
from .taming.checkpoint import read_weights
from .vqgan import VQGAN

CLASS_NAME = "VQModel"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
PICKLED_FILE = "diffusion_pytorch_model.bin"
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
# Options of VQModel of which only one value has a counterpart, with VQModel's own default.
ONLY = {
    "act_fn": "silu",
    "norm_num_groups": GROUPS,
    "norm_type": "group",
    "mid_block_add_attention": True,
}
# What our name is called there, in order; the number of a decoder's level is turned around apart.
NAMES = (
    (r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d+)\.attn\.", r"down_blocks.\1.attentions."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bup\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"\bup\.(\d+)\.attn\.", r"up_blocks.\1.attentions."),
    (r"\bup\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.", "mid_block.attentions.0."),
    (r"\bnin_shortcut\.", "conv_shortcut."),
    (r"\bnorm_out\.", "conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)
# The projections' names until diffusers 0.15, which it still reads.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_diffusers(folder: str | os.PathLike[str], strict: bool = True) -> VQGAN:
    """`VQGAN.from_diffusers`, which see."""
    folder = Path(folder)
    config = vqgan_config(_read_config(folder), folder / "config.json")
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / PICKLED_FILE).is_file():
        path = folder / PICKLED_FILE
    theirs = {_newer_name(key): value for key, value in read_weights(path, use_ema=False).items()}
    levels = len(config["ch_mult"])
    # Every name that a VQGAN of this configuration has, found by what it is called there.
    weights = {}
    for name, shape in _shapes(config, folder).items():
        key = their_name(name, levels)
        if key in theirs:
            value = theirs.pop(key)
            weights[name] = value[..., None, None] if _is_projection(key, value, shape) else value
    return build_with_weights(
        VQGAN,
        config,
        {**weights, **theirs},
        weights_from=path,
        config_from=folder / "config.json",
        strict=strict,
    )


def save_diffusers(model: VQGAN, folder: str | os.PathLike[str]) -> None:
    """Writes the folder that `diffusers.VQModel.from_pretrained` reads; files replaced atomically.

    `scaling_factor`, which pipelines multiply latents by, is 1: a VQGAN's latents are not scaled.

    Raises:
        ValueError: VQModel has nothing that would be this model.
    """
    levels = len(model.config["ch_mult"])
    tensors = {}
    for name, value in model.state_dict().items():
        if is_moving_average(name):
            continue
        key = their_name(name, levels)
        projection = ".attentions." in key and value.ndim == 4
        tensors[key] = value[..., 0, 0] if projection else value
    config = {"_class_name": CLASS_NAME, **vq_model_config(model.config)}
    write_model(Path(folder), config, tensors, WEIGHTS_FILE)


def is_diffusers(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder's config.json is one of diffusers'."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "_class_name" in config


def their_name(name: str, levels: int) -> str:
    """What VQModel calls a weight of a VQGAN with so many levels."""
    name = re.sub(r"\bup\.(\d+)\.", lambda found: f"up.{levels - 1 - int(found[1])}.", name)
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


def vq_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """VQModel's arguments for those of a VQGAN; ValueError for what has no counterpart."""
    ch_mult, resolution = list(config["ch_mult"]), config["resolution"]
    if ch_mult[0] != 1:
        raise ValueError(
            f"a VQGAN with ch_mult = {ch_mult} has no counterpart in diffusers, whose first "
            "convolution has as many channels as the first level: ch_mult must begin with 1"
        )
    if config["double_z"]:
        raise ValueError("a VQGAN with double_z=True has no counterpart in diffusers' VQModel")
    check_plain_codes(config, "diffusers' VQModel")
    attention = [resolution >> i in config["attn_resolutions"] for i in range(len(ch_mult))]
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_ch"],
        "down_block_types": ["Attn" * there + DOWN for there in attention],
        "up_block_types": ["Attn" * there + UP for there in reversed(attention)],
        "block_out_channels": [config["ch"] * multiple for multiple in ch_mult],
        "layers_per_block": config["num_res_blocks"],
        "latent_channels": config["z_channels"],
        "sample_size": resolution,
        "num_vq_embeddings": config["codebook_size"],
        "vq_embed_dim": config["embed_dim"],
        "scaling_factor": 1.0,
        **ONLY,
    }


def vqgan_config(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A VQGAN's arguments for those of VQModel; ConfigError for what has no counterpart."""
    for key, value in ONLY.items():
        if given.get(key, value) != value:
            raise ConfigError(
                f"{path}: {key} = {given[key]!r} has no counterpart here; only {value!r} does"
            )
    widths = _listed(given, "block_out_channels", path)
    if any(not isinstance(width, int) or width < 1 or width % widths[0] for width in widths):
        raise ConfigError(
            f"{path}: block_out_channels must be multiples of the first, got {widths}"
        )
    attention = _attention(given, "down_block_types", DOWN, path)
    if _attention(given, "up_block_types", UP, path)[::-1] != attention or len(attention) != len(
        widths
    ):
        raise ConfigError(
            f"{path}: down_block_types, block_out_channels and, backwards, up_block_types must "
            "describe the same levels"
        )
    factor = 2 ** (len(widths) - 1)
    # VQModel says by levels where attention is. Any resolution that can be halved so often tells.
    resolution = given.get("sample_size", factor)
    resolution = resolution if isinstance(resolution, int) and resolution % factor == 0 else factor
    z_channels = given.get("latent_channels", 3)
    return {
        "codebook_size": given.get("num_vq_embeddings", 256),
        "embed_dim": given.get("vq_embed_dim") or z_channels,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": given.get("layers_per_block", 1),
        "attn_resolutions": [resolution >> i for i, there in enumerate(attention) if there],
        "resolution": resolution,
        "in_channels": given.get("in_channels", 3),
        "out_ch": given.get("out_channels", 3),
        "z_channels": z_channels,
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json: expected a folder that diffusers wrote"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != CLASS_NAME:
        raise ConfigError(f"{path} describes {found}, expected diffusers' {CLASS_NAME}")
    return config


def _listed(given: Mapping[str, Any], key: str, path: Path) -> Sequence[Any]:
    value = given.get(key)
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{path}: {key} must be a list, got {value!r}")
    return value


def _attention(given: Mapping[str, Any], key: str, plain: str, path: Path) -> list[bool]:
    types = _listed(given, key, path)
    wrong = [kind for kind in types if kind not in (plain, f"Attn{plain}")]
    if wrong:
        raise ConfigError(f"{path}: {key} has {wrong[0]}; known are {plain} and Attn{plain}")
    return [kind != plain for kind in types]


def _shapes(config: Mapping[str, Any], folder: Path) -> dict[str, Sequence[int]]:
    import torch

    try:
        with torch.device("meta"):
            return {key: value.shape for key, value in VQGAN(**config).state_dict().items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from error


def _is_projection(key: str, value: Tensor, shape: Sequence[int]) -> bool:
    return ".attentions." in key and value.ndim == 2 and len(shape) == 4


def _newer_name(key: str) -> str:
    return re.sub(
        r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
        lambda found: f"{found[1]}.{OLD_NAMES[found[2]]}.",
        key,
    )
