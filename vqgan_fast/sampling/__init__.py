"""Sampling codes and images with a trained transformer."""

from .best import Best, sample_best
from .classifier import ClassifierWeightsError, classifier_score, load_classifier
from .coordinates import coordinate_tokens
from .images import sample
from .interrupted import SamplingInterrupted
from .logits_error import LogitsError
from .packed import PackedTransformer, pack
from .sampler import sample_codes
from .tiles import decode_tiled

__all__ = [
    "Best",
    "ClassifierWeightsError",
    "LogitsError",
    "PackedTransformer",
    "SamplingInterrupted",
    "classifier_score",
    "coordinate_tokens",
    "decode_tiled",
    "load_classifier",
    "pack",
    "sample",
    "sample_best",
    "sample_codes",
]
