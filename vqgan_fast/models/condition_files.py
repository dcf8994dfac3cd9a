"""A condition as it lies in a model's folder: its `config`, and a VQGAN where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .conditions import CombinedCondition, Condition, LabelCondition, SOSCondition
from .map_conditions import CodesCondition, CoordinateCondition
from .vqgan import VQGAN

KINDS = {
    "sos": SOSCondition,
    "label": LabelCondition,
    "coordinates": CoordinateCondition,
    "codes": CodesCondition,
    "combined": CombinedCondition,
}


def build_condition(
    config: Mapping[str, Any], folder: Path | None = None, first_stage: VQGAN | None = None
) -> Condition:
    """The condition that a `config` describes.

    Args:
        config: `name` in KINDS, and what that class takes.
        folder: of the model, for conditions with a VQGAN of their own.
        first_stage: for those without one.

    Raises:
        ValueError: an unknown name, arguments that do not fit, a VQGAN that is not there.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"condition must be a mapping with a name, got {config!r}")
    arguments = dict(config)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"condition must be one of {sorted(KINDS)}, got {name!r}")
    if name == "combined":
        parts = arguments.pop("parts", ())
        built = [build_condition(part, folder, first_stage) for part in parts]
        return CombinedCondition(built, **arguments)
    if name == "codes":
        arguments["vqgan"] = _vqgan(arguments.get("folder"), folder, first_stage)
    return KINDS[name](**arguments)


def save_condition(condition: nn.Module, folder: Path) -> None:
    """Writes the VQGANs of a condition; its config is for the model's config.json."""
    for module in condition.modules():
        if isinstance(module, CodesCondition) and module.folder is not None:
            module.vqgan.save_pretrained(folder / module.folder)


def _vqgan(name: str | None, folder: Path | None, first_stage: VQGAN | None) -> VQGAN:
    if name is None:
        if first_stage is None:
            raise ValueError("first_stage must be given for a condition of its codes, got None")
        return first_stage
    if folder is None or Path(name).name != name:
        raise ValueError(f"the condition's folder must lie beside its config.json, got {name!r}")
    try:
        return VQGAN.from_pretrained(folder / name)
    except FileNotFoundError as error:
        raise ValueError(f"the condition's VQGAN is missing: {error}") from error
