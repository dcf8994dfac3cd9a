"""Measures of finished models: reconstruction, codebook, likelihood, distance to real pictures."""

from __future__ import annotations

from .distribution import (
    MetricWeightsError,
    check_count,
    distribution_metrics,
    inception_weights,
)
from .likelihood import nll_per_code
from .pictures import Pictures, paper_crop
from .reconstruction import ReconstructionMeasures

__all__ = [
    "MetricWeightsError",
    "Pictures",
    "ReconstructionMeasures",
    "check_count",
    "distribution_metrics",
    "inception_weights",
    "nll_per_code",
    "paper_crop",
]
