"""Pictures that a run of stage 2 has not seen, with their conditions as its training makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..data import HeldOutPairs
    from ..models import LatentTransformer
    from ..models.conditions import Tokens
    from ..train.config import ConditionConfig


class HeldOutCrops(NamedTuple):
    """Crops with their maps, the `tokens` of these, and the crops' side in pixels."""

    crops: HeldOutPairs
    tokens: Tokens
    size: int


def held_out_of(
    run: Path,
    model: LatentTransformer,
    pictures: Path | None = None,
    maps: Sequence[Path] = (),
) -> HeldOutCrops:
    """The held-out crops of a run.

    Args:
        run: its folder, with its configuration.
        model: that it trained.
        pictures: in the place of the run's own held-out ones.
        maps: in the place of theirs, one for each condition that is files.

    Raises:
        ConfigError, DataError, ValueError: no configuration, no pictures, or maps that do not fit.
    """
    from ..train import load_config
    from ..train.conditioning import Conditioning

    config = load_config(run / "config.yaml")
    if pictures is not None:
        config.data.validation = str(pictures)
    if config.data.validation is None:
        raise ValueError(f"{run / 'config.yaml'} names no held-out pictures (data.validation)")
    if maps:
        _take_maps(config.condition, maps)
    conditioning = Conditioning(config, model.first_stage_model, model.cond_stage_model)
    crops = conditioning.held_out()
    device, count = model.transformer.head.weight.device, len(crops.images)
    tokens = conditioning.tokens(crops.kinds, crops.maps, count, device)
    return HeldOutCrops(crops, tokens, config.data.size)


def _take_maps(condition: ConditionConfig, folders: Sequence[Path]) -> None:
    from ..train.check_config import PAIRED_MAPS

    parts = [part for part in condition.parts or [condition] if part.kind in PAIRED_MAPS]
    if len(parts) != len(folders):
        kinds = ", ".join(part.kind for part in parts) or "nothing that is files"
        raise ValueError(
            f"--maps must be {len(parts)} folders, the run is conditioned on {kinds}, got "
            f"{len(folders)}"
        )
    for part, folder in zip(parts, folders, strict=True):
        part.validation_folder = str(folder)
