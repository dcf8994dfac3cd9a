"""The constraints on the values of a configuration, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from vqgan_fast.models.orderings import ORDERINGS
from vqgan_fast.quantizers import QUANTIZERS

from .check_data_config import MAPS, check_data
from .check_transformer_config import CONDITIONS, check_transformer
from .check_vqgan_config import check_vqgan
from .config import ConfigError, Run, TransformerRun, VQGANRun

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
    "model.codebook_size", "model.embed_dim", "model.z_channels", "model.ch",
    "model.num_res_blocks",
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
# 1 would keep the first value for ever, or drop all.
BELOW_ONE = ("optim.ema_decay", "model.dropout")
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
        (BELOW_ONE, lambda value: 0 <= value < 1, "at least 0 and below 1"),
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
        check_vqgan(config)
    if isinstance(config, TransformerRun):
        check_transformer(config)


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
