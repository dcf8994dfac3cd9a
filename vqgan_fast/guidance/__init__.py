"""Pictures that an external score asks for: latents moved uphill through the quantiser."""

from __future__ import annotations

from .clip import ClipScore, ClipUnavailableError
from .crops import RandomCrops
from .guide import Guided, guide

__all__ = ["ClipScore", "ClipUnavailableError", "Guided", "RandomCrops", "guide"]
