"""The entropies of a soft assignment of latents to codes, a block of rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Elements of the N x K matrix that are held at a time.
BLOCK_ELEMENTS = 1 << 22


def entropy_terms(
    z: Tensor, codebook: Tensor, temperature: float, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """How sure each latent is of its code, and how evenly all of them use the codebook.

        p[n] = softmax_k(-|z[n] - e[k]|^2 / temperature),   p = mean of p[n]
        sample_entropy = mean over n of -sum_k p[n, k] log p[n, k]
        average_entropy = -sum_k p[k] log(p[k] + eps)

    Both in nats. The backward pass computes each block of rows again, so the N x K probabilities
    are never held. Sums are in fp32 at least, also under autocast. Yu et al., "Language model beats
    diffusion", 2023, eq. 5.

    Args:
        z: (..., D), floating point.
        codebook: (K, D).
        temperature: positive.
        eps: keeps the logarithm of an unused code finite.

    Returns:
        Two scalars, differentiable in z and codebook.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    wide = torch.promote_types(torch.promote_types(z.dtype, codebook.dtype), torch.float32)
    with torch.autocast(z.device.type, enabled=False):
        rows, codes = z.flatten(0, -2).to(wide), codebook.to(wide)
        block = max(1, BLOCK_ELEMENTS // len(codes))
        sample, average = rows.new_zeros(()), rows.new_zeros(len(codes))
        for part in rows.split(block):
            entropy, mass = checkpoint(_block, part, codes, temperature, use_reentrant=False)
            sample, average = sample + entropy, average + mass
        average = average / len(rows)
        return sample / len(rows), -(average * (average + eps).log()).sum()


def _block(rows: Tensor, codes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The sums over some rows of their entropies, (), and of their probabilities, (K,)."""
    # |z|^2 is the same for all codes, so the softmax does not see it.
    scores = torch.addmm(codes.square().sum(1), rows, codes.T, alpha=-2) / -temperature
    log_p = scores.log_softmax(dim=1)
    p = log_p.exp()
    return -(p * log_p).sum(), p.sum(0)
