"""What other packages' VQGANs take for a quantiser: codes that are chosen by their distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Quantisers that in use give the code nearest to a latent as it lies in `embedding.weight`.
PLAIN = ("vector", "ema")
# What an EMAVectorQuantizer holds besides, for its training alone.
MOVING_AVERAGES = ("quantize.cluster_size", "quantize.embed_avg", "quantize.updates")


def check_plain_codes(config: Mapping[str, Any], there: str) -> None:
    """ValueError if a VQGAN's quantiser would be another one `there`."""
    if config["quantizer"] not in PLAIN:
        raise ValueError(
            f"a VQGAN with quantizer = {config['quantizer']!r} has no counterpart in {there}, "
            f"which takes the nearest code: quantizer must be {' or '.join(PLAIN)}"
        )


def is_moving_average(name: str) -> bool:
    """Whether a weight's name in a state dict is that of an average that only training needs."""
    return name.endswith(MOVING_AVERAGES)
