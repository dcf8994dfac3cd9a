"""Reading a configuration whose pictures and first stage need not be there yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from vqgan_fast.train import TransformerRun, VQGANRun, load_config
from vqgan_fast.train.check_config import check_config, check_divisible
from vqgan_fast.train.config import ConfigError, ModelConfig
from vqgan_fast.train.first_stage import load_first_stage

HERE = "."  # a path that exists, where a run would need one


def load_plan(
    path: str, overrides: Iterable[str] = ()
) -> tuple[VQGANRun | TransformerRun, ModelConfig | None]:
    """A configuration with sound values, and for stage 2 the sizes of its first stage.

    `first_stage` may be a run's folder or the YAML file of a stage-1 configuration; without one,
    the paper's VQGAN is taken.

    Raises:
        ConfigError: a value cannot be used.
    """
    config = load_config(path, overrides, check=False)
    if config.data.maps.kind is not None:
        raise ConfigError(
            f"plan knows training on pictures, not on maps; got data.maps.kind = "
            f"{config.data.maps.kind}"
        )
    encoded = isinstance(config, TransformerRun) and config.data.codes is not None
    sound = replace(config, run_dir=HERE)
    sound.data = replace(
        config.data, train=None if encoded else HERE, shards=None, validation=None,
        **({"codes": HERE} if encoded else {}),
    )  # fmt: skip
    if isinstance(config, VQGANRun):
        check_config(sound)
        return sound, None
    first_stage = _first_stage(config.first_stage)
    sound.first_stage = HERE
    check_config(sound)
    check_divisible(sound.data.size, 2 ** (len(first_stage.ch_mult) - 1))
    return sound, first_stage


def _first_stage(path: str | None) -> ModelConfig:
    if path is None:
        return ModelConfig(**VQGANRun().vqgan_arguments())
    if path.endswith((".yaml", ".yml")):
        config = load_config(path, check=False)
        if not isinstance(config, VQGANRun):
            raise ConfigError(f"first_stage = {path} must be of stage: vqgan, got {config.stage}")
        return ModelConfig(**config.vqgan_arguments())
    sizes = load_first_stage(path).config
    known = {entry.name for entry in fields(ModelConfig)}
    return ModelConfig(**{name: value for name, value in sizes.items() if name in known})
