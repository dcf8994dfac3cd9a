"""The constraints on the values of a configuration, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from vqgan_fast.losses.perceptual import SMALLEST_SIDES
from vqgan_fast.models.discriminator import smallest_side
from vqgan_fast.models.orderings import ORDERINGS, ROW_MAJOR
from vqgan_fast.quantizers import QUANTIZERS, build_quantizer

from .check_data_config import (
    CHANNELS,
    FILE_MAPS,
    MAPS,
    check_data,
    check_exists,
    check_maps,
    check_untouched,
)
from .config import (
    ConditionPart,
    ConfigError,
    MapConfig,
    Run,
    TransformerDataConfig,
    TransformerRun,
    VQGANRun,
)

CONDITIONS = ("sos", "label", *MAPS)

CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "data.crop": ("random", "center"),
    "optim.precision": ("fp32", "bf16"),
    "data.maps.kind": MAPS,
    "data.maps.unpaired": ("refuse", "skip"),
    "loss.kind": ("vqgan", "segmentation"),
    "loss.disc_loss": ("hinge", "vanilla"),
    "loss.pixel_loss": ("l1", "mse"),
    "loss.perceptual_net": ("vgg", "alex", "squeeze"),
    "loss.perceptual_weights": ("pretrained", "random", "auto"),
    "condition.kind": CONDITIONS,
    "condition.unpaired": ("refuse", "skip"),
    "model.quantizer": tuple(QUANTIZERS),
    "transformer": ("gpt", "window_gpt", "pixel_snail"),
    "gpt.ordering": tuple(ORDERINGS),
}
AT_LEAST_ONE = (
    "data.size", "data.batch_size", "data.global_batch_size", "data.validation_crops",
    "optim.accumulate", "optim.steps",
    "log.every", "log.images_every", "log.checkpoint_every", "log.keep_checkpoints",
    "codebook.restart_after", "codebook.usage_window", "loss.disc_num_layers", "loss.disc_ndf",
    "gpt.n_layer", "gpt.n_head", "gpt.n_embd",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "data.num_workers", "optim.weight_decay", "loss.disc_start", "loss.disc_weight",
    "loss.disc_factor", "loss.codebook_weight", "loss.perceptual_weight", "model.beta",
)  # fmt: skip
POSITIVE = (
    "optim.base_learning_rate", "optim.learning_rate", "optim.max_minutes", "rank_timeout_minutes",
)  # fmt: skip
SHARES = ("pkeep", "cond_drop_prob", "codebook.collapse_usage")
DECAYS = ("optim.ema_decay",)  # 1 would keep the first value for ever
SEEDS, TIMEOUTS = ("seed",), ("rank_timeout_minutes",)
SEED_LIMIT = 2**63  # ranks add their numbers, and torch takes 64 bits
LONGEST_TIMEOUT = 10**6  # minutes; two years, where clocks that count nanoseconds still hold it


def check_config(config: Run) -> None:
    """Raise a ConfigError that names the key if a value cannot be used."""
    for key, choices in CHOICES.items():
        value = _value(config, key)
        if value is not None and value not in choices:
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, got {value!r}")
    for key, value in _numbers(config):
        if not math.isfinite(value):
            raise ConfigError(f"{key} must be a finite number, got {value}")
    for keys, holds, expected in (
        (AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (POSITIVE, lambda value: value > 0, "above 0"),
        (SHARES, lambda value: 0 <= value <= 1, "between 0 and 1"),
        (DECAYS, lambda value: 0 <= value < 1, "at least 0 and below 1"),
        (SEEDS, lambda value: value < SEED_LIMIT, f"below 2^63 = {SEED_LIMIT}"),
        (TIMEOUTS, lambda value: value <= LONGEST_TIMEOUT, f"at most {LONGEST_TIMEOUT}"),
    ):
        for key in keys:
            value = _value(config, key)
            if value is not None and not holds(value):
                raise ConfigError(f"{key} must be {expected}, got {value}")
    if not config.run_dir:
        raise ConfigError("run_dir must be given: the folder that everything of the run goes into")
    check_data(config.data)
    if isinstance(config, VQGANRun):
        _check_vqgan(config)
    if isinstance(config, TransformerRun):
        _check_transformer(config)


def check_divisible(size: int, factor: int) -> None:
    """The side of a crop must be a whole number of codes."""
    if size % factor:
        raise ConfigError(
            f"data.size must be a multiple of the VQGAN's downsampling factor f = {factor}, got "
            f"{size}; the nearest is {max(factor, round(size / factor) * factor)}"
        )


def codes_beside_size(data: TransformerDataConfig, grid: Sequence[int], factor: int) -> str | None:
    """How data.size contradicts the grid of data.codes; None where it does not.

    Training takes the codes as they are. Held-out pictures are cropped as data.size says.

    Raises:
        ConfigError: there are held-out pictures, which would give other grids.
    """
    height, width = (side * factor for side in grid)
    if (height, width) == (data.size, data.size):
        return None
    text = (
        f"data.size = {data.size} contradicts data.codes = {data.codes}, whose {grid[0]} x "
        f"{grid[1]} codes are of crops of {height} x {width} pixels"
    )
    if data.validation is not None:
        raise ConfigError(
            f"{text}: the pictures of data.validation are cropped to data.size, and must have as "
            "many codes"
        )
    return f"{text}: data.size is not used"


def check_discriminator(config: VQGANRun) -> None:
    """Crops hold a patch of a discriminator that will train: it would say so when it starts."""
    loss, size = config.loss, config.data.size
    starts = loss.disc_factor > 0 and loss.disc_start < config.optim.steps
    least = smallest_side(loss.disc_num_layers)
    if loss.kind == "vqgan" and starts and size < least:
        raise ConfigError(
            f"data.size must be at least {least}, the smallest picture of a discriminator with "
            f"loss.disc_num_layers = {loss.disc_num_layers}, got {size}"
        )


def check_perceptual(config: VQGANRun) -> None:
    """Crops leave something in every layer of the perceptual network, where there is one."""
    loss, size = config.loss, config.data.size
    least = SMALLEST_SIDES[loss.perceptual_net]
    if loss.kind == "vqgan" and loss.perceptual_weight > 0 and size < least:
        raise ConfigError(
            f"data.size must be at least {least}, the smallest picture of loss.perceptual_net = "
            f"{loss.perceptual_net}, got {size}; or leave it out with loss.perceptual_weight=0"
        )


def check_unmasked(n_unmasked: int, known: int) -> None:
    """Tokens that see each other are among the condition's, `known` in number."""
    if n_unmasked > known:
        raise ConfigError(
            f"gpt.n_unmasked must be at most {known}, the condition's tokens, got {n_unmasked}"
        )


def _check_vqgan(config: VQGANRun) -> None:
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


def _check_condition(config: TransformerRun) -> None:
    condition = config.condition
    if condition.parts:
        check_untouched(condition, ConditionPart(), "condition", "beside condition.parts")
    if condition.parts and config.transformer != "gpt":
        raise ConfigError(
            f"condition.parts needs transformer = gpt: {config.transformer} takes one condition"
        )
    if config.cond_drop_prob and condition.kind == "sos" and not condition.parts:
        raise ConfigError(
            f"cond_drop_prob = {config.cond_drop_prob} needs a condition, got condition.kind = sos"
        )
    for number, part in enumerate(condition.parts or [condition]):
        section = f"condition.parts[{number}]" if condition.parts else "condition"
        choices = CONDITIONS[1:] if condition.parts else CONDITIONS
        if part.kind not in choices:
            raise ConfigError(
                f"{section}.kind must be one of {', '.join(choices)}, got {part.kind!r}"
            )
        check_maps(config.data, part, section)
        is_map = part.kind not in ("sos", "label", "coordinates")
        if part.vqgan is not None and not is_map:
            raise ConfigError(f"{section}.vqgan is for maps, got {part.vqgan} with {part.kind}")
        if is_map and part.vqgan is None and part.kind in FILE_MAPS:
            raise ConfigError(
                f"{section}.vqgan must be given: the run folder of a VQGAN trained with "
                f"data.maps.kind = {part.kind}"
            )
        if part.n_tokens < 1:
            raise ConfigError(f"{section}.n_tokens must be at least 1, got {part.n_tokens}")
        check_exists(f"{section}.vqgan", part.vqgan)
        if part.kind != "sos" and config.data.codes is not None:
            raise ConfigError(
                f"data.codes holds no conditions: {section}.kind = {part.kind} needs data.train, "
                "the pictures"
            )


def _check_transformer(config: TransformerRun) -> None:
    if config.first_stage is None:
        raise ConfigError(
            "first_stage must be given: the run folder of a trained VQGAN, or a folder that its "
            "save_pretrained wrote"
        )
    check_exists("first_stage", config.first_stage)
    data = config.data
    given = [n for n in ("train", "shards", "codes") if getattr(data, n) is not None]
    if len(given) != 1:
        raise ConfigError(
            "exactly one of data.train (pictures), data.shards (pictures in tar files) and "
            "data.codes (what `vqgan-fast tokenize` wrote) must be given, got "
            f"{' and '.join(given) or 'neither'}"
        )
    check_exists("data.codes", data.codes)
    _check_condition(config)
    why = "for a transformer, whose maps condition tells"
    check_untouched(data.maps, MapConfig(), "data.maps", why)
    if config.gpt.n_embd % config.gpt.n_head:
        raise ConfigError(
            f"gpt.n_embd must be a multiple of gpt.n_head = {config.gpt.n_head}, got "
            f"{config.gpt.n_embd}"
        )
    head_width = config.gpt.n_embd // config.gpt.n_head
    if config.transformer != "pixel_snail" and head_width % 8:
        raise ConfigError(
            f"gpt.n_embd / gpt.n_head must be a multiple of 8, the head width that sampling needs, "
            f"got {config.gpt.n_embd} / {config.gpt.n_head} = {head_width}"
        )
    if config.transformer != "gpt" and config.gpt.n_unmasked:
        raise ConfigError(
            f"gpt.n_unmasked must be 0 for transformer = {config.transformer}, whose condition is "
            f"no part of the sequence, got {config.gpt.n_unmasked}"
        )
    if config.transformer != "gpt" and config.gpt.ordering != ROW_MAJOR:
        raise ConfigError(
            f"gpt.ordering must be {ROW_MAJOR} for transformer = {config.transformer}, which knows "
            f"no other, got {config.gpt.ordering}"
        )


def _value(config: Run, key: str) -> Any:
    """The value at a dotted key, None where this stage has no such key."""
    node: Any = config
    for name in key.split("."):
        node = getattr(node, name, None)
    return node


def _numbers(section: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a configuration that is no integer, by its dotted key."""
    for entry in fields(section):
        value, key = getattr(section, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from _numbers(value, f"{key}.")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if is_dataclass(item):
                    yield from _numbers(item, f"{key}[{i}].")
        elif isinstance(value, float):
            yield key, value
