"""The models that the reference's YAML files describe, as the arguments of ours.

Such a file names a class (`target`) and its arguments (`params`) for each part of a model. Only the
architecture is read here; `vqgan_fast.train` reads the rest, how to train it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config_error import ConfigError

VQGAN_TARGET = "taming.models.vqgan.VQModel"
GUMBEL_TARGET = "taming.models.vqgan.GumbelVQ"
# One architecture under several names: with Gumbel draws, without a discriminator, for label maps,
# latent diffusion's.
VQGAN_TARGETS = (
    VQGAN_TARGET,
    GUMBEL_TARGET,
    "taming.models.vqgan.VQNoDiscModel",
    "taming.models.vqgan.VQSegmentationModel",
    "ldm.models.autoencoder.VQModel",
    "ldm.models.autoencoder.VQModelInterface",
)
TRANSFORMER_TARGET = "taming.models.cond_transformer.Net2NetTransformer"
GPT_TARGET = "taming.modules.transformer.mingpt.GPT"
IDENTITY_TARGET = "taming.modules.transformer.permuter.Identity"
PERMUTERS = {
    IDENTITY_TARGET: "row_major",
    "taming.modules.transformer.permuter.Subsample": "subsample",
    "taming.modules.transformer.permuter.ZCurve": "z_curve",
    "taming.modules.transformer.permuter.SpiralOut": "spiral_out",
    "taming.modules.transformer.permuter.SpiralIn": "spiral_in",
    "taming.modules.transformer.permuter.AlternateParsing": "alternate",
}
LABEL_TARGET = "taming.modules.util.Labelator"
COORDINATES_TARGET = "taming.modules.misc.coord.CoordStage"
UNCONDITIONAL, IS_FIRST_STAGE = "__is_unconditional__", "__is_first_stage__"

ENCODER_KEYS = (
    "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels",
    "in_channels", "out_ch", "dropout",
)  # fmt: skip
GPT_KEYS = ("n_layer", "n_head", "n_embd", "embd_pdrop", "resid_pdrop", "attn_pdrop", "n_unmasked")


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, interpolations resolved.

    Raises:
        ConfigError: it is missing, no YAML, or holds something else.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        given = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(given).__name__}")
    return given


class TamingReader:
    """Reads sections of one file; `left_out` collects the keys that had no effect here."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.left_out: list[str] = []

    def vqgan_arguments(
        self, params: Mapping[str, Any], name: str = "model.params."
    ) -> dict[str, Any]:
        """The arguments of our VQGAN for those of a VQModel; `name` is where they stand.

        Raises:
            ConfigError: one is missing, or has no counterpart.
        """
        ddconfig = self.section(params, "ddconfig", name)
        only = {
            "double_z": False, "resamp_with_conv": True, "attn_type": "vanilla",
            "use_linear_attn": False, "give_pre_end": False, "tanh_out": False,
        }  # fmt: skip
        self.demand(ddconfig, only, f"{name}ddconfig.")
        known = {"ddconfig", "lossconfig", "n_embed", "embed_dim", "ckpt_path", "image_key",
                 "colorize_nlabels", "remap"}  # fmt: skip
        self.leave_out(params, known, name)
        self.leave_out(ddconfig, {*ENCODER_KEYS, *only}, f"{name}ddconfig.")
        return {
            "codebook_size": self.needed(params, "n_embed", name),
            "embed_dim": self.needed(params, "embed_dim", name),
            **{key: ddconfig[key] for key in ENCODER_KEYS if key in ddconfig},
        }

    def gpt_section(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters of the GPT in those of a Net2NetTransformer; ConfigError for another."""
        name = "model.params.transformer_config."
        config = self.section(params, "transformer_config", "model.params.")
        if config.get("target") != GPT_TARGET:
            raise self.unknown_target(f"{name}target", config.get("target"), (GPT_TARGET,))
        sizes = self.section(config, "params", name)
        self.leave_out(sizes, {*GPT_KEYS, "vocab_size", "block_size"}, f"{name}params.")
        return sizes

    def ordering(self, params: Mapping[str, Any]) -> str:
        """Our name of the order in which codes are read; ConfigError for one we do not know."""
        permuter = params.get("permuter_config")
        target = IDENTITY_TARGET if permuter is None else permuter.get("target")
        if target not in PERMUTERS:
            name = "model.params.permuter_config.target"
            raise self.unknown_target(name, target, tuple(PERMUTERS))
        return PERMUTERS[target]

    def section(self, parent: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any]:
        """What `key` holds; ConfigError, which calls it prefix + key, if that is no mapping."""
        value = parent.get(key)
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{self.path}: {prefix}{key} must hold keys and values, got {value!r}"
            )
        return value

    def needed(self, parent: Mapping[str, Any], key: str, prefix: str) -> Any:
        """The value of `key`; ConfigError, which calls it prefix + key, where there is none."""
        if parent.get(key) is None:
            raise ConfigError(f"{self.path}: {prefix}{key} is missing")
        return parent[key]

    def demand(
        self, parent: Mapping[str, Any], only: Mapping[str, Any], prefix: str = "model.params."
    ) -> None:
        """Options of the reference of which only one value has a counterpart."""
        for key, value in only.items():
            if parent.get(key, value) != value:
                raise ConfigError(
                    f"{self.path}: {prefix}{key} = {parent[key]!r} has no counterpart here; only "
                    f"{value!r} does"
                )

    def leave_out(self, parent: Mapping[str, Any], known: set[str], prefix: str) -> None:
        """Adds the keys of `parent` that are not `known` to `left_out`, as prefix + key."""
        self.left_out += [prefix + key for key in parent if key not in known]

    def unknown_target(self, key: str, target: Any, known: tuple[str, ...]) -> ConfigError:
        return ConfigError(
            f"{self.path}: {key} is {target}, which has no counterpart here; known: "
            f"{', '.join(known)}"
        )
