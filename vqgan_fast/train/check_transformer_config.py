"""The constraints on a configuration of stage 2."""

from __future__ import annotations

from vqgan_fast.models.orderings import ROW_MAJOR

from .check_data_config import FILE_MAPS, MAPS, check_exists, check_maps, check_untouched
from .config import ConditionPart, ConfigError, MapConfig, TransformerRun

CONDITIONS = ("sos", "label", *MAPS)


def check_transformer(config: TransformerRun) -> None:
    """Raise a ConfigError that names the key if stage 2 cannot be trained so."""
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
            f"{' and '.join(given) or 'none'}"
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
