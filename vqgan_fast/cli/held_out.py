"""Pictures that a run of stage 2 has not seen, with their conditions as its training makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from ..data import HeldOutPairs
    from ..models import LatentTransformer
    from ..models.conditions import Tokens
    from ..train.conditioning import Conditioning
    from ..train.config import ConditionPart
    from ..train.training_crops import TrainingCrops


class HeldOutCrops(NamedTuple):
    """Crops with their maps, what makes tokens of these, and the crops' side in pixels."""

    crops: HeldOutPairs
    conditioning: Conditioning
    size: int

    def taken(self, rows: Sequence[int]) -> HeldOutCrops:
        """Some of them."""
        crops, rows = self.crops, list(rows)
        maps = tuple(of_a_kind[rows] for of_a_kind in crops.maps)
        return self._replace(crops=crops._replace(images=crops.images[rows], maps=maps))

    def split(self, number: int) -> Iterator[HeldOutCrops]:
        """All of them, at most so many at a time."""
        count = len(self.crops.images)
        for first in range(0, count, number):
            yield self.taken(range(first, min(first + number, count)))

    def tokens(self, device: torch.device | str, batch: int) -> Tokens:
        """The tokens of the maps, encoded so many at a time."""
        import torch

        from ..models.conditions import map_tokens

        tokens = [
            self.conditioning.tokens(part.kinds, part.maps, len(part.images), device)
            for part in (some.crops for some in self.split(batch))
        ]
        return map_tokens(lambda *parts: torch.cat(parts), *tokens)


def held_out_of(
    run: Path,
    model: LatentTransformer,
    pictures: Path | None = None,
    maps: Sequence[Path] = (),
    limit: int | None = None,
    size: int | None = None,
) -> HeldOutCrops:
    """The held-out crops of a run; of other pictures all crops that they hold.

    Args:
        run: its folder, with its configuration.
        model: that it trained.
        pictures: in the place of the run's own held-out ones.
        maps: in the place of theirs, one for each condition that is files.
        limit: take the first so many of the pictures; None takes all.
        size: side of the crops in pixels; None takes the training's.

    Raises:
        ConfigError, DataError, ValueError: no configuration, no pictures, or maps that do not fit.
    """
    from ..train import load_config
    from ..train.check_data_config import PAIRED_MAPS
    from ..train.conditioning import Conditioning

    # The training pictures may be elsewhere by now.
    config = load_config(run / "config.yaml", check=False)
    if pictures is not None:
        config.data.validation = str(pictures)
        # What the run says of held-out crops it says of its own pictures.
        config.data.validation_crops = sys.maxsize
        config.data.validation_region = [0.0, 0.0, 1.0, 1.0]
    if size is not None:
        config.data.size = size
        if config.data.resize is not None:
            config.data.resize = max(config.data.resize, size)
    if config.data.validation is None:
        raise ValueError(f"{run / 'config.yaml'} names no held-out pictures (data.validation)")
    parts = [p for p in config.condition.parts or [config.condition] if p.kind in PAIRED_MAPS]
    if maps:
        _take_maps(parts, maps)
    for part in parts:
        if part.validation_folder is None:
            raise ValueError(
                f"--maps must be given: {run} names no {part.kind} of held-out pictures"
            )
    conditioning = Conditioning(config, model.first_stage_model, model.cond_stage_model)
    return HeldOutCrops(conditioning.held_out(limit), conditioning, config.data.size)


def held_out_nll(held_out: HeldOutCrops, model: LatentTransformer, batch: int) -> dict[str, float]:
    """Nats per code under the crops' own conditions, and under each other's.

    Args:
        model: both stages, on the device that is to do the work.
        batch: how many crops are worked on at once.
    """
    import torch

    from ..data import to_model_range
    from ..evaluate import nll_per_code
    from ..train.conditioning import shuffled

    count, device = len(held_out.crops.images), model.transformer.head.weight.device
    true = held_out.tokens(device, batch)
    parts = (to_model_range(some.crops.images, device) for some in held_out.split(batch))
    codes = torch.cat([model.encode_to_codes(part) for part in parts])
    figures = {"nll_crops": count, "nll": nll_per_code(model, codes, batch, true)}
    if count > 1:
        figures["nll_shuffled"] = nll_per_code(model, codes, batch, shuffled(true))
    return figures


def is_vqgan_of_maps(run: Path) -> bool:
    """Whether a run trained a first stage on maps instead of pictures."""
    from ..train import VQGANRun, load_config

    path = run / "config.yaml"
    config = load_config(path, check=False) if path.is_file() else None
    return isinstance(config, VQGANRun) and config.data.maps.kind is not None


def held_out_maps(
    run: Path, pictures: Path, maps: Sequence[Path] = (), limit: int | None = None
) -> TrainingCrops:
    """The central crops of maps, as `held_out` of what the run of a VQGAN of maps would train on.

    Args:
        run: its folder, with its configuration.
        pictures: that the maps are of, or are made of.
        maps: the folder of them, or the file of poses; none where they are made of the pictures.
        limit: take the first so many; None takes all.

    Raises:
        ConfigError, DataError, ValueError: no pictures, or maps that do not fit.
    """
    import torch

    from ..train import load_config
    from ..train.check_config import check_config
    from ..train.check_data_config import PAIRED_MAPS
    from ..train.distributed import Ranks
    from ..train.training_crops import TrainingCrops

    config = load_config(run / "config.yaml", check=False)
    data = config.data
    kind = data.maps.kind
    wanted = int(kind in PAIRED_MAPS)
    if len(maps) != wanted:
        raise ValueError(f"--maps must be {wanted} folders for {kind} maps, got {len(maps)}")
    data.train = data.validation = str(pictures)
    data.shards = None
    data.validation_crops = sys.maxsize if limit is None else limit
    if maps:
        data.maps.folder = data.maps.validation_folder = str(maps[0])
    check_config(config)
    return TrainingCrops(data, 0, Ranks(0, 1, torch.device("cpu")))


def _take_maps(parts: Sequence[ConditionPart], folders: Sequence[Path]) -> None:
    if len(parts) != len(folders):
        kinds = ", ".join(part.kind for part in parts) or "nothing that is files"
        raise ValueError(
            f"--maps must be {len(parts)} folders, the run is conditioned on {kinds}, got "
            f"{len(folders)}"
        )
    for part, folder in zip(parts, folders, strict=True):
        part.validation_folder = str(folder)
