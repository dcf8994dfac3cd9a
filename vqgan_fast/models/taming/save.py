"""Writing our models as the reference reads them: a checkpoint and a YAML file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import LabelCondition, SOSCondition
from ..gpt import GPT
from ..latent_transformer import LatentTransformer
from ..plain_codes import check_plain_codes, is_moving_average
from ..pretrained import replacing
from ..vqgan import VQGAN
from .config import (
    ENCODER_KEYS,
    GPT_TARGET,
    GUMBEL_TARGET,
    LABEL_TARGET,
    TRANSFORMER_TARGET,
    UNCONDITIONAL,
    VQGAN_TARGET,
)

# As every file of the reference that only uses a VQGAN has it.
NO_LOSS_TARGET = "taming.modules.losses.DummyLoss"
SCHEDULER_TARGET = "taming.lr_scheduler.LambdaWarmUpCosineScheduler"


def save_taming(
    model: VQGAN | LatentTransformer,
    ckpt: str | os.PathLike[str],
    yaml: str | os.PathLike[str],
) -> None:
    """Writes `ckpt` and `yaml`, from which the reference builds the same model.

    The reference's trainer wants more, which it must be given: data, a loss, a learning rate. Each
    file is replaced atomically.

    Raises:
        ValueError: the reference has nothing that would be this model.
    """
    import yaml as pyyaml

    if isinstance(model, LatentTransformer):
        section = {"target": TRANSFORMER_TARGET, "params": _transformer_params(model)}
    else:
        section = _vqgan_section(model)
    ckpt, yaml = Path(ckpt), Path(yaml)
    for path in (ckpt, yaml):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(ckpt) as path:
        torch.save({"state_dict": _weights(model)}, path)
    with replacing(yaml) as path:
        path.write_text(pyyaml.safe_dump({"model": section}, sort_keys=False), encoding="utf-8")


def _weights(model: nn.Module) -> dict[str, Tensor]:
    # A tensor that is a view would take the whole of what it views along.
    return {
        key: value.detach().cpu().clone()
        for key, value in model.state_dict().items()
        if not is_moving_average(key)
    }


def _vqgan_section(model: VQGAN) -> dict[str, Any]:
    if not isinstance(model, VQGAN):
        raise ValueError(
            f"a first stage of type {type(model).__name__} has no counterpart in the reference, "
            "which has a VQGAN"
        )
    config = model.config
    if config["double_z"]:
        raise ValueError("a VQGAN with double_z=True has no counterpart in the reference")
    params = {
        "embed_dim": int(config["embed_dim"]),
        "n_embed": int(config["codebook_size"]),
        "ddconfig": {"double_z": False, **{key: _plain(config[key]) for key in ENCODER_KEYS}},
        "lossconfig": {"target": NO_LOSS_TARGET},
    }
    if config["quantizer"] == "gumbel":
        return {"target": GUMBEL_TARGET, "params": params | _gumbel_params(model)}
    check_plain_codes(config, "the reference's VQModel")
    if config["beta"] != 0.25 or not config["legacy"]:
        warnings.warn(
            "the reference trains every VQGAN with beta=0.25 and legacy=True, this one has "
            f"beta={config['beta']} and legacy={config['legacy']}: only its loss will differ",
            stacklevel=4,
        )
    return {"target": VQGAN_TARGET, "params": params}


def _gumbel_params(model: VQGAN) -> dict[str, Any]:
    """What GumbelVQ takes besides; its schedule keeps the temperature that the quantiser has."""
    quantizer, config = model.quantize, model.config
    if config["z_channels"] != config["embed_dim"] or not quantizer.straight_through:
        raise ValueError(
            "the reference's GumbelVQ has z_channels = embed_dim and straight_through=True, this "
            f"VQGAN has {config['z_channels']}, {config['embed_dim']} and "
            f"{quantizer.straight_through}"
        )
    levels = dict.fromkeys(("lr_start", "lr_max", "lr_min"), float(quantizer.temperature))
    steps = {"warm_up_steps": 0, "max_decay_steps": 1}
    return {
        "kl_weight": float(quantizer.kl_weight),
        "temperature_scheduler_config": {"target": SCHEDULER_TARGET, "params": steps | levels},
    }


def _transformer_params(model: LatentTransformer) -> dict[str, Any]:
    if not isinstance(model.transformer, GPT):
        raise ValueError(
            f"a transformer of type {type(model.transformer).__name__} has no counterpart in the "
            "reference, which has a GPT"
        )
    first_stage = _vqgan_section(model.first_stage_model)
    gpt = {key: _plain(value) for key, value in model.transformer.config.items()}
    if "ordering" in gpt:
        raise ValueError(
            "a transformer that reads codes in another order than row by row cannot be written "
            f"for the reference, whose file would have to tell the grid, got {gpt['ordering']}"
        )
    condition = _condition_params(model.cond_stage_model)
    _warn_of_losses(model)
    return {
        "pkeep": float(model.pkeep),
        **condition,
        "transformer_config": {"target": GPT_TARGET, "params": gpt},
        "first_stage_config": first_stage,
    }


def _warn_of_losses(model: LatentTransformer) -> None:
    lost = []
    if model.null_token is not None:
        lost.append(f"null_token = {model.null_token}, without which there is no guidance")
    if getattr(model.cond_stage_model, "classes", None) is not None:
        lost.append("the names of the classes")
    if lost:
        warnings.warn(
            f"the reference has no place for {'; nor for '.join(lost)}: a model that is read from "
            "these files does without",
            stacklevel=4,
        )


def _condition_params(condition: nn.Module) -> dict[str, Any]:
    if isinstance(condition, SOSCondition):
        return {"cond_stage_config": UNCONDITIONAL, "sos_token": int(condition.token)}
    if isinstance(condition, LabelCondition):
        params = {"n_classes": int(condition.n_classes)}
        return {
            "cond_stage_key": "class_label",
            "cond_stage_config": {"target": LABEL_TARGET, "params": params},
        }
    raise ValueError(
        f"a condition of type {type(condition).__name__} cannot be written for the reference"
    )


def _plain(value: Any) -> Any:
    """Numbers and lists of Python's own: numpy's are written by YAML as calls."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value
