"""The counter-based random numbers of :mod:`vqgan_fast.ops.reference.philox`, by which draws are
keyed."""

from __future__ import annotations

from ..ops.reference.philox import gumbel_noise, philox_4x32, uniform

__all__ = ["gumbel_noise", "philox_4x32", "uniform"]
