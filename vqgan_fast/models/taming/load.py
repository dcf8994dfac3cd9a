"""Models from the reference's checkpoints (CompVis/taming-transformers) and their YAML files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..conditions import LabelCondition, SOSCondition
from ..config_error import ConfigError
from ..fit_weights import build_with_weights
from ..gpt import GPT
from ..latent_transformer import LatentTransformer
from ..map_conditions import CoordinateCondition
from ..vqgan import VQGAN
from .checkpoint import read_weights
from .config import (
    COORDINATES_TARGET,
    GPT_KEYS,
    GUMBEL_TARGET,
    IS_FIRST_STAGE,
    LABEL_TARGET,
    TRANSFORMER_TARGET,
    UNCONDITIONAL,
    VQGAN_TARGETS,
    TamingReader,
    read_yaml,
)

if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]

STAGES = ("first_stage", "cond_stage")
# What a VQModel's checkpoint holds besides the autoencoder: discriminator and LPIPS, colours of
# label maps.
NOT_THE_VQGAN = ("loss.", "colorize")


def load_taming_vqgan(
    ckpt: StrPath,
    yaml: StrPath,
    *,
    use_ema: bool | None = None,
    strict: bool = True,
    stage: str = "first_stage",
) -> VQGAN:
    """`VQGAN.from_taming`, which see."""
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    reader, model = _model_section(yaml)
    target, params = model.get("target"), reader.section(model, "params", "model.")
    prefix, name = "", "model.params."
    if target == TRANSFORMER_TARGET:
        prefix, name = f"{stage}_model.", f"model.params.{stage}_config.params."
        config = params.get(f"{stage}_config")
        if config == IS_FIRST_STAGE:
            return load_taming_vqgan(ckpt, yaml, use_ema=use_ema, strict=strict)
        section = reader.section(params, f"{stage}_config", "model.params.")
        target, params = section.get("target"), reader.section(section, "params", name[:-7])
    elif stage != "first_stage":
        raise ConfigError(
            f"{reader.path}: model.target is {target}, which has no {stage}; only a "
            f"{TRANSFORMER_TARGET} has"
        )
    if target not in VQGAN_TARGETS:
        known = (*VQGAN_TARGETS, TRANSFORMER_TARGET)
        raise reader.unknown_target(f"{name.removesuffix('params.')}target", target, known)
    weights = read_weights(ckpt, use_ema)
    return _vqgan(reader, target, params, name, weights, prefix, ckpt, strict)


def load_taming_transformer(
    ckpt: StrPath,
    yaml: StrPath,
    *,
    use_ema: bool | None = None,
    strict: bool = True,
    condition: nn.Module | None = None,
) -> LatentTransformer:
    """Both stages of a Net2NetTransformer that the reference trained: on the CPU, in eval mode.

    Such a checkpoint holds the first stage's weights as well; another file is not needed.

    Args:
        ckpt: a Lightning checkpoint, such as `last.ckpt`. Nothing in it is run.
        yaml: the configuration that it was trained with, such as `...-project.yaml`.
        use_ema: True for averaged weights, False for those last trained, None for the averaged
            ones where the file has any.
        strict: False turns missing and unexpected weights into a warning.
        condition: what stands before the codes, instead of what the YAML file names (see
            `vqgan_fast.models.conditions`); needed for conditions that have no counterpart here.

    Raises:
        FileNotFoundError: a file is missing.
        ConfigError: the YAML file asks for something that has no counterpart here, by name.
        ValueError: the checkpoint is damaged, names code, or does not fit the configuration; the
            message lists what is missing, unexpected and of another shape.
    """
    reader, model = _model_section(yaml)
    if model.get("target") != TRANSFORMER_TARGET:
        known = (TRANSFORMER_TARGET,)
        raise reader.unknown_target("model.target", model.get("target"), known)
    params = reader.section(model, "params", "model.")
    ordering = reader.ordering(params)
    if condition is None:
        condition = _condition(reader, params)
    first = reader.section(params, "first_stage_config", "model.params.")
    name = "model.params.first_stage_config."
    if first.get("target") not in VQGAN_TARGETS:
        raise reader.unknown_target(f"{name}target", first.get("target"), VQGAN_TARGETS)
    sizes = reader.gpt_section(params)
    gpt_config = {
        key: reader.needed(sizes, key, "model.params.transformer_config.params.")
        for key in ("vocab_size", "block_size")
    }
    gpt_config |= {key: sizes[key] for key in GPT_KEYS if key in sizes}
    gpt_config["ordering"] = ordering

    weights = read_weights(ckpt, use_ema)
    _check_parts(weights, ckpt, reader, strict)
    first_stage = _vqgan(
        reader, first["target"], reader.section(first, "params", name), f"{name}params.", weights,
        "first_stage_model.", ckpt, strict,
    )  # fmt: skip
    gpt = build_with_weights(
        GPT,
        gpt_config,
        _part(weights, "transformer."),
        weights_from=f"{ckpt} (transformer.*)",
        config_from=f"{reader.path} (model.params.transformer_config)",
        strict=strict,
    )
    _check_mask(gpt, ckpt, reader)
    try:
        return LatentTransformer(first_stage, condition, gpt, params.get("pkeep", 1.0)).eval()
    except ValueError as error:
        raise ConfigError(f"{reader.path}: {error}") from error


def _model_section(yaml: StrPath) -> tuple[TamingReader, Mapping[str, Any]]:
    reader = TamingReader(yaml)
    if not reader.path.is_file():
        raise FileNotFoundError(f"there is no configuration file {yaml}")
    return reader, reader.section(read_yaml(reader.path), "model")


def _vqgan(
    reader: TamingReader,
    target: str,
    params: Mapping[str, Any],
    name: str,
    weights: Mapping[str, Tensor],
    prefix: str,
    ckpt: StrPath,
    strict: bool,
) -> VQGAN:
    reader.demand(params, {"remap": None}, name)
    config = reader.vqgan_arguments(params, name)
    if target == GUMBEL_TARGET:
        options = {"kl_weight": params.get("kl_weight", 1e-8)}
        config |= {"quantizer": "gumbel", "quantizer_options": options}
    odd = [key for key in reader.left_out if key.startswith(f"{name}ddconfig.")]
    if odd:
        warnings.warn(f"{reader.path}: {', '.join(odd)} have no counterpart here", stacklevel=4)
    own = {
        key: value
        for key, value in _part(weights, prefix).items()
        if not key.startswith(NOT_THE_VQGAN)
    }
    return build_with_weights(
        VQGAN,
        config,
        own,
        weights_from=f"{ckpt} ({prefix}*)" if prefix else ckpt,
        config_from=f"{reader.path} ({name[:-1]})",
        strict=strict,
    )


def _condition(reader: TamingReader, params: Mapping[str, Any]) -> nn.Module:
    config = params.get("cond_stage_config")
    if params.get("unconditional") or config == UNCONDITIONAL:
        return SOSCondition(params.get("sos_token", 0))
    name = "model.params.cond_stage_config."
    target = config.get("target") if isinstance(config, Mapping) else config
    place = f"{name}params."
    if target == LABEL_TARGET:
        labels = reader.section(config, "params", name)
        return LabelCondition(reader.needed(labels, "n_classes", place))
    if target == COORDINATES_TARGET:
        coordinates = reader.section(config, "params", name)
        sizes = (reader.needed(coordinates, key, place) for key in ("n_embed", "down_factor"))
        return CoordinateCondition(*sizes)
    if target in (*VQGAN_TARGETS, IS_FIRST_STAGE):
        raise ConfigError(
            f"{reader.path}: {name}target is {target}: codes of maps, but the file does not say "
            "how these are made; give, say, condition=CodesCondition(VQGAN.from_taming(ckpt, yaml, "
            'stage="cond_stage"), maps={"kind": "depth"})'
        )
    raise ConfigError(
        f"{reader.path}: {name}target is {target}, a condition that has no counterpart here "
        f"(known: {UNCONDITIONAL}, {LABEL_TARGET}, {COORDINATES_TARGET}); give a module of your "
        "own with condition=..."
    )


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def _check_parts(
    weights: Mapping[str, Tensor], ckpt: StrPath, reader: TamingReader, strict: bool
) -> None:
    """Weights beside the three parts would be lost in silence; the condition's are its own."""
    known = ("first_stage_model.", "cond_stage_model.", "transformer.", "permuter.")
    other = sorted({key.split(".")[0] for key in weights if not key.startswith(known)})
    if other and strict:
        raise ValueError(
            f"{ckpt} does not fit {reader.path}: a Net2NetTransformer has the parts "
            f"{', '.join(part[:-1] for part in known)}, got {', '.join(other[:8])} as well"
        )


def _check_mask(gpt: GPT, ckpt: StrPath, reader: TamingReader) -> None:
    """The mask comes out of the file; it must be the one that n_unmasked asks for."""
    mask = gpt.blocks[0].attn.mask[0, 0]
    expected = mask.new_ones(mask.shape).tril()
    expected[: gpt.n_unmasked, : gpt.n_unmasked] = 1
    if not mask.equal(expected):
        seen = int(mask[0].sum())
        raise ValueError(
            f"{ckpt} does not fit {reader.path}: its attention mask is that of n_unmasked = "
            f"{seen if seen > 1 else 0}, transformer_config has {gpt.n_unmasked}"
        )
