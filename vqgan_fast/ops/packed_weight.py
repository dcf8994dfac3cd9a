"""Weights of a linear layer as the decode kernels stream them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .registration import require_tensors

PANEL = 32  # outputs that lie side by side
WEIGHT_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class PackedWeight(NamedTuple):
    """A weight (N, K) of a linear layer in panels of 32 outputs; see :func:`pack_linear`.

    Attributes:
        weight: (ceil(N / 32), K, 32), float32, bfloat16 or int8; outputs past N are zeros. Of a
            bfloat16 panel, outputs j and j + 16 lie side by side, j = 0 ... 15, so that one 32-bit
            word holds both.
        scales: (N,) float32 for int8, the value of one unit in each output's row; else None.
        out_features: N.
    """

    weight: Tensor
    scales: Tensor | None
    out_features: int


def pack_linear(weight: Tensor, dtype: str = "float32") -> PackedWeight:
    """Packs the weight of a linear layer for :func:`vqgan_fast.ops.packed_linear`.

    Args:
        weight: (N, K), any floating dtype, as `torch.nn.Linear` holds it.
        dtype: what the weights are held in: "float32"; "bfloat16", each weight rounded to nearest
            even; or "int8", each row as round(w / scale) with scale = max |w| / 127 of that row.

    Returns:
        The packed weight, on weight's device.

    Raises:
        TypeError: weight is no tensor.
        ValueError: weight is not (N, K) of a floating dtype with N, K >= 1; dtype is none of the
            three; for int8, a weight that is not finite.
    """
    if dtype not in WEIGHT_TYPES:
        raise ValueError(f'dtype must be "float32", "bfloat16" or "int8", got {dtype!r}')
    require_tensors(weight=weight)
    if weight.dim() != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise ValueError(
            "weight must be (N, K) of a floating dtype with N, K >= 1, got "
            f"{tuple(weight.shape)} of {weight.dtype}"
        )
    weight, scales = weight.detach().float(), None
    if dtype == "int8":
        weight, scales = _quantized(weight)
    return PackedWeight(_panels(weight.to(WEIGHT_TYPES[dtype])), scales, weight.shape[0])


def unpack_linear(packed: PackedWeight) -> Tensor:
    """The weight (N, K) in float32 that a packed weight stands for; TypeError if it is none."""
    check_packed_weight(packed)
    panels = packed.weight
    if panels.dtype == torch.bfloat16:
        panels = panels.unflatten(-1, (PANEL // 2, 2)).transpose(-1, -2).flatten(-2)
    weight = panels.transpose(-1, -2).flatten(0, 1)[: packed.out_features].float()
    return weight if packed.scales is None else weight * packed.scales[:, None]


def check_packed_weight(packed: object) -> None:
    """TypeError if it is something else, such as a weight that was not packed."""
    if not isinstance(packed, tuple) or len(packed) != 3:
        raise TypeError(
            f"packed must be a PackedWeight, as pack_linear makes it, got {type(packed).__name__}"
        )


def _panels(weight: Tensor) -> Tensor:
    num_outputs, dim = weight.shape
    num_panels = -(-num_outputs // PANEL)
    padded = weight.new_zeros(num_panels * PANEL, dim)
    padded[:num_outputs] = weight
    panels = padded.view(num_panels, PANEL, dim).transpose(1, 2)
    if weight.dtype == torch.bfloat16:
        panels = panels.unflatten(-1, (2, PANEL // 2)).transpose(-1, -2).flatten(-2)
    return panels.contiguous()


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    largest = weight.abs().amax(1)
    if not largest.isfinite().all():
        raise ValueError("weight must be finite to be held in int8, got a NaN or an infinity")
    scales = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scales[:, None]).round().clamp(-127, 127), scales
