"""What a run is conditioned on, or learns instead of pictures, of which sizes alone are known."""

from __future__ import annotations

import torch
from torch import Tensor

from vqgan_fast.data import to_model_range
from vqgan_fast.models import VQGAN
from vqgan_fast.models.conditions import Condition, LabelCondition, Tokens
from vqgan_fast.train.conditioning import condition_stage
from vqgan_fast.train.config import MapConfig, TransformerRun
from vqgan_fast.train.training_crops import make_map

from .load import FirstStages

# Channels and type of maps as `CropMap.crop` gives them; pictures and the others are RGB bytes.
CROPS = {
    "segmentation": (1, torch.uint8),
    "depth": (1, torch.float32),
    "coordinates": (1, torch.float32),
}


def planned_map(config: MapConfig, count: int, size: int) -> Tensor:
    """What a VQGAN takes of `count` crops, floats (count, C, size, size), made as in training."""
    channels, dtype = CROPS.get(config.kind, (3, torch.uint8))
    crops = torch.zeros(count, channels, size, size, dtype=dtype)
    if config.kind in CROPS:
        return make_map(config, []).to_model(crops)
    return to_model_range(crops)


class PlannedCondition:
    """The condition of a run of stage 2, as `Conditioning` builds it of what it finds.

    Attributes:
        stages: of each part; made of fake tensors where such a mode is entered.

    Raises:
        ConfigError: a VQGAN does not fit.
    """

    def __init__(self, config: TransformerRun, vqgan: VQGAN, ready: FirstStages) -> None:
        self.parts = config.condition.parts or [config.condition]
        self.several = bool(config.condition.parts)
        classes = [str(number) for number in range(ready.classes)]
        self.stages: list[Condition] = []
        for part, sizes in zip(self.parts, ready.conditions, strict=True):
            own = None if sizes is None else VQGAN(**vars(sizes)).requires_grad_(False)
            self.stages.append(condition_stage(part, vqgan, own, classes, "condition"))

    @property
    def vocab_size(self) -> int:
        """The smallest vocabulary that has all tokens."""
        return max(stage.vocab_size for stage in self.stages)

    def length(self, cells: int) -> int:
        """How many tokens stand before a grid of so many codes."""
        return sum(stage.length(cells) for stage in self.stages)

    def tokens(self, count: int, size: int) -> Tokens:
        """Those of `count` crops: all maps are there before the first is encoded."""
        inputs = [
            planned_map(part, count, size) if stage.num_grids else None
            for part, stage in zip(self.parts, self.stages, strict=True)
        ]
        tokens = []
        for stage, given in zip(self.stages, inputs, strict=True):
            if isinstance(stage, LabelCondition):  # whose numbers cannot be checked without any
                tokens.append(torch.zeros(count, 1, dtype=torch.int64))
            else:
                tokens.append(stage(count, "cpu", given))
        return tuple(tokens) if self.several else tokens[0]
