"""Restart of codes that no latent chooses any more."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_tensor


@torch.no_grad()
def restart_dead_codes(
    codebook: Tensor, dead: Tensor, latents: Tensor, generator: torch.Generator
) -> Tensor:
    """Moves every dead code onto a randomly drawn live latent, in place.

    A code far from all latents is never chosen, so it gets no gradient and stays where it is.
    Placed on a latent, it is chosen again (Dhariwal et al. 2020, arXiv 2005.00341, "random
    restarts"). No latent is drawn twice unless there are fewer of them than dead codes. Latents
    with NaN or infinity are never drawn; where no other is there, nothing is replaced.

    Args:
        codebook: (K, D), changed in place, outside autograd.
        dead: (K,) bool, the codes to replace.
        latents: (M, D), the encoder's current outputs.
        generator: source of the draw; the same state gives the same draw on any device of
            `codebook`. Ranks of a distributed run must call with equal latents and states.

    Returns:
        int64 indices of the replaced codes, ascending.

    Raises:
        TypeError: an argument is no tensor, or generator none.
        ValueError: a shape or dtype that does not fit.
    """
    for name, tensor in (("codebook", codebook), ("dead", dead), ("latents", latents)):
        check_tensor(name, tensor)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if codebook.ndim != 2:
        raise ValueError(f"codebook must be (K, D), got {tuple(codebook.shape)}")
    num_codes, dim = codebook.shape
    if dead.shape != (num_codes,) or dead.dtype != torch.bool:
        raise ValueError(
            f"dead must be bool of shape ({num_codes},), got {dead.dtype} of {tuple(dead.shape)}"
        )
    if latents.ndim != 2 or latents.shape[1] != dim:
        raise ValueError(f"latents must be (M, D) with D = {dim}, got {tuple(latents.shape)}")
    live = latents[latents.isfinite().all(dim=1)]
    replaced = dead.nonzero().flatten()
    if len(live) == 0:
        return replaced[:0]
    device = generator.device
    if len(live) >= len(replaced):
        draw = torch.randperm(len(live), generator=generator, device=device)[: len(replaced)]
    else:
        draw = torch.randint(len(live), (len(replaced),), generator=generator, device=device)
    codebook[replaced] = live[draw.to(live.device)].to(codebook)
    return replaced
