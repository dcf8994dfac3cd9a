"""Options of vector-quantize-pytorch that are not covered, and combinations that cannot be."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...quantizers.checks import check_integer

# What each must be, where it is not covered.
_DEFAULTS: dict[str, Any] = {
    "affine_param": False,
    "sync_affine_param": False,
    "commitment_use_cross_entropy_loss": False,
    "codebook_diversity_loss_weight": 0.0,
    "stochastic_sample_codes": False,
    "straight_through": False,
    "topk": None,
    "codebook_transform_fn": None,
    "indices": None,
    "implicit_neural_codebook": False,
    "beam_size": None,
    "eval_beam_size": None,
}


def refuse(**options: Any) -> None:
    """Makes sure that options which are not covered have the value that switches them off.

    Raises:
        NotImplementedError: one has not; the message names it.
    """
    for name, value in options.items():
        default = _DEFAULTS[name]
        if value is None or value is default:
            continue
        if isinstance(value, torch.Tensor) or value != default:
            raise NotImplementedError(
                f"{name} is not covered by vqgan_fast: use vector_quantize_pytorch's own class "
                f"for it, or leave it at {default}"
            )


def require(holds: bool, message: str) -> None:
    """Raises ValueError with the message if it does not hold."""
    if not holds:
        raise ValueError(message)


def check_sizes(**sizes: int) -> None:
    """ValueError unless each is an integer above 0; the message names it."""
    for name, size in sizes.items():
        check_integer(name, size)


def check_combination(
    *,
    ema_update: bool,
    learnable_codebook: bool,
    use_cosine_sim: bool,
    rotation_trick: bool,
    directional_reparam: bool,
    threshold_ema_dead_code: float,
    vq_bridge: nn.Module | None,
    sync_update_v: float,
    separate_heads: bool,
    orthogonal_of_active_codes: bool,
) -> None:
    """Makes sure that the options of a VectorQuantize go together.

    Raises:
        ValueError: two of them do not; the message names both.
    """
    require(not (ema_update and learnable_codebook), "learnable_codebook needs ema_update=False")
    require(
        not (use_cosine_sim and learnable_codebook),
        "learnable_codebook is not possible with use_cosine_sim",
    )
    require(
        not (rotation_trick and directional_reparam),
        "rotation_trick and directional_reparam exclude each other",
    )
    require(
        not directional_reparam or threshold_ema_dead_code != 0,
        "directional_reparam needs threshold_ema_dead_code > 0",
    )
    require(vq_bridge is None or learnable_codebook, "vq_bridge needs learnable_codebook=True")
    require(0 <= sync_update_v <= 1, f"sync_update_v must lie in [0, 1], got {sync_update_v}")
    require(sync_update_v == 0 or learnable_codebook, "sync_update_v needs learnable_codebook")
    require(
        not (separate_heads and orthogonal_of_active_codes),
        "orthogonal_reg_active_codes_only needs one codebook for all heads",
    )
