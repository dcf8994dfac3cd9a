"""Features for FID that need no download; importing this registers them with torch-fidelity."""

from __future__ import annotations

import torch
import torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase


class SmallFeatures(FeatureExtractorBase):
    """Means and deviations of colours in place of the InceptionV3, which cannot be shipped."""

    def __init__(self, name: str, features: list[str], **_: object) -> None:
        super().__init__(name, features)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("colours", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"fid": "colours", "isc": "logits"}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.float().flatten(2)
        colours = torch.cat([flat.mean(-1), flat.std(-1)], dim=1)
        values = {"colours": colours, "logits": colours / 16}
        return tuple(values[name] for name in self.features_list)


SMALL_FEATURES = "small-features"
torch_fidelity.register_feature_extractor(SMALL_FEATURES, SmallFeatures)
