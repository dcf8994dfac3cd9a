"""The constraints on a configuration of stage 1."""

from __future__ import annotations

import torch

from vqgan_fast.quantizers import QUANTIZERS, build_quantizer

from .check_data_config import CHANNELS, check_maps
from .check_sizes import check_divisible
from .config import ConfigError, VQGANRun


def check_vqgan(config: VQGANRun) -> None:
    """Raise a ConfigError that names the key if stage 1 cannot be trained so."""
    if (config.data.train is None) == (config.data.shards is None):
        raise ConfigError(
            "data.train must be given: a folder of pictures, or a .txt list of them; or, instead "
            f"of it, data.shards. Got {'neither' if config.data.train is None else 'both'}"
        )
    model, maps = config.model, config.data.maps
    check_maps(config.data, maps, "data.maps")
    labels = maps.kind == "segmentation"
    channels = maps.n_labels if labels else CHANNELS.get(maps.kind, 3)
    what = "pictures are RGB" if maps.kind is None else f"the channels of {maps.kind} maps"
    for name in ("in_channels", "out_ch"):
        if getattr(model, name) != channels:
            raise ConfigError(
                f"model.{name} must be {channels}, {what}, got {getattr(model, name)}"
            )
    if labels != (config.loss.kind == "segmentation"):
        raise ConfigError(
            "loss.kind = segmentation goes with data.maps.kind = segmentation and with nothing "
            f"else, got {config.loss.kind} and {maps.kind}"
        )
    if not model.ch_mult:
        raise ConfigError("model.ch_mult must have one entry per level, got none")
    check_divisible(config.data.size, 2 ** (len(model.ch_mult) - 1))
    _check_quantizer(config)


def _check_quantizer(config: VQGANRun) -> None:
    model = config.model
    if config.codebook.restart_dead_codes and not QUANTIZERS[model.quantizer].restartable:
        other = (
            "; model.quantizer_options.restart_below does it" if model.quantizer == "ema" else ""
        )
        raise ConfigError(
            f"codebook.restart_dead_codes must be false with model.quantizer={model.quantizer}, "
            f"whose codes cannot be moved onto latents one by one{other}"
        )
    try:
        with torch.device("meta"):  # the smallest one, without drawing anything
            build_quantizer(model.quantizer, 1, 1, model.beta, False, model.quantizer_options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.quantizer_options: {error}") from error
