"""Checks of arguments that the quantisers, the models and the samplers share."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ..ops.registration import require_tensors


def check_integer(name: str, value: int, minimum: int = 1, maximum: float = math.inf) -> None:
    """Makes sure that an argument is an integer, Python's or numpy's, in [minimum, maximum].

    Raises:
        ValueError: it is not; the message names it.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")


def check_number(name: str, value: float) -> None:
    """Makes sure that an argument is a finite number, Python's or numpy's.

    Raises:
        ValueError: it is not; the message names it.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_bool(name: str, value: bool) -> None:
    """ValueError unless an argument is True or False, Python's or numpy's."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_tensor(name: str, value: object) -> None:
    """TypeError unless an argument is a tensor."""
    require_tensors(**{name: value})


def check_latents(z: Tensor, symbol: str, channels: int) -> None:
    """ValueError unless z is floating point, (B, channels, H, W), with `symbol` for channels;
    TypeError if it is no tensor."""
    check_tensor("z", z)
    if z.ndim != 4 or z.shape[1] != channels:
        raise ValueError(
            f"z must be (B, {symbol}, H, W) with {symbol} = {channels}, got {tuple(z.shape)}"
        )
    if not z.is_floating_point():
        raise ValueError(f"z must be floating point, got {z.dtype}")


def check_indices(
    name: str, indices: Tensor, size: int, *, least: int = 0, synchronize: bool = False
) -> None:
    """Makes sure that `indices` can look up a table of `size` rows.

    The dtype is always checked. The values are checked where that is cheap: on CPU tensors. On
    another device it would make the host wait for the device, so a caller that draws its tokens
    step by step checks its inputs once with `synchronize=True` and not at every step.

    Raises:
        TypeError: no tensor.
        ValueError: not an integer tensor, or an index outside [least, size).
    """
    check_tensor(name, indices)
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must be int64 or int32, got {indices.dtype}")
    if torch.compiler.is_compiling() or isinstance(indices, FakeTensor) or indices.numel() == 0:
        return  # there are no values
    if torch._C._are_functorch_transforms_active():
        return  # torch.vmap lets nobody see them
    if synchronize or indices.device.type == "cpu":
        low, high = (int(bound) for bound in indices.aminmax())
        if low < least or high >= size:
            bad = low if low < least else high
            raise ValueError(f"{name} must lie in [{least}, {size}), got {bad}")
