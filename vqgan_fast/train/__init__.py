"""Training: configuration, both stages, checkpoints."""

from __future__ import annotations

from .checkpoint import CheckpointError
from .config import ConfigError, TransformerRun, VQGANRun
from .load_config import build_config, load_config, save_config
from .run_folder import TrainingResult
from .stage1 import train_vqgan
from .stage2 import train_transformer
from .stopping import TrainingInterrupted

__all__ = [
    "CheckpointError",
    "ConfigError",
    "TrainingInterrupted",
    "TrainingResult",
    "TransformerRun",
    "VQGANRun",
    "build_config",
    "load_config",
    "save_config",
    "train",
    "train_transformer",
    "train_vqgan",
]


def train(config: VQGANRun | TransformerRun) -> TrainingResult:
    """Train the stage that the configuration describes."""
    return train_vqgan(config) if isinstance(config, VQGANRun) else train_transformer(config)
