"""How the gradient of a code reaches the latent it replaces."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from .search import normalize


def straight_through(latents: Tensor, codes: Tensor) -> Tensor:
    """The codes, with the gradient handed to the latents as it is (van den Oord et al., 2017)."""
    return latents + (codes - latents).detach()


def rotate_to(latents: Tensor, codes: Tensor) -> Tensor:
    """The latents, each rotated and scaled onto its code by a map that counts as constant.

    With unit vectors u along the latent z and q along the code e (Fifty et al., 2024, arXiv
    2410.06424, "the rotation trick", section 4.2):

        w = (u + q) / |u + q|
        R z = z - 2 w (w.z) + 2 q (u.z)
        result = |e| / |z| R z

    So the gradient is turned with the angle between code and latent. Lengths below 1e-6 count as
    that.

    Args:
        latents, codes: (..., D).

    Returns:
        (..., D): equal to the codes but for rounding. The codes get no gradient.
    """
    with torch.no_grad():
        latent_norm = latents.norm(dim=-1, keepdim=True)
        code_norm = codes.norm(dim=-1, keepdim=True)
        u = latents / latent_norm.clamp(min=1e-6)
        q = codes / code_norm.clamp(min=1e-6)
        w = normalize(u + q)
        scale = code_norm / latent_norm.clamp(min=1e-6)
    along_w = (latents * w).sum(-1, keepdim=True)
    along_u = (latents * u).sum(-1, keepdim=True)
    return (latents - 2 * along_w * w + 2 * along_u * q) * scale


def directional_reparam(latents: Tensor, codes: Tensor, noise_variance: float) -> Tensor:
    """The latents, moved towards their codes by the exact distance in a noisy direction.

    Differentiable in both, without any further loss ("DiVeQ", figure 1, openreview KRVnpTbx7R).
    """
    error = codes - latents
    direction = error + sqrt(noise_variance) * torch.randn_like(error)
    return latents + normalize(direction).detach() * error.norm(dim=-1, keepdim=True)
