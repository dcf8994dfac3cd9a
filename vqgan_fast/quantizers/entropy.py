"""The entropies of a soft assignment of latents to codes, and the loss that is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops


def entropy_terms(
    z: Tensor, codebook: Tensor, temperature: float, eps: float = 1e-5, metric: str = "l2"
) -> tuple[Tensor, Tensor]:
    """How sure each latent is of its code, and how evenly all of them use the codebook.

        p[n] = softmax_k(-|z[n] - e[k]|^2 / temperature),   p = mean of p[n]
        sample_entropy = mean over n of -sum_k p[n, k] log p[n, k]
        average_entropy = -sum_k p[k] log(p[k] + eps)

    Both in nats, fp32 at least; the N x K probabilities are never held (`ops.soft_assign`). Yu et
    al., "Language model beats diffusion", 2023, eq. 5.

    Args:
        z: (..., D), floating point.
        codebook: (K, D).
        temperature: positive.
        eps: keeps the logarithm of an unused code finite.
        metric: "l2" as above, or "dot" for softmax_k(z[n] . e[k] / temperature).

    Returns:
        Two scalars, differentiable in z and codebook.

    Raises:
        ValueError: temperature is not positive.
    """
    terms = _wide_terms(z, codebook, temperature, eps, metric)
    return tuple(term.to(_dtype_of_terms(z, codebook)) for term in terms)


def entropy_loss(
    z: Tensor,
    codebook: Tensor,
    temperature: float = 0.01,
    loss_type: str = "softmax",
    metric: str = "l2",
) -> Tensor:
    """sample_entropy - average_entropy: small where latents are sure and all codes in use.

    The entropy loss of LlamaGen's quantiser, on squared distances (Sun et al., "Autoregressive
    model beats diffusion", 2024). Arguments as in `entropy_terms`.

    Args:
        loss_type: "softmax", the only one that its code knows.

    Raises:
        ValueError: another loss_type.
    """
    if loss_type != "softmax":
        raise ValueError(f'loss_type must be "softmax", got {loss_type!r}')
    sample, average = _wide_terms(z, codebook, temperature, metric=metric)
    return (sample - average).to(_dtype_of_terms(z, codebook))


def _wide_terms(
    z: Tensor, codebook: Tensor, temperature: float, eps: float = 1e-5, metric: str = "l2"
) -> tuple[Tensor, Tensor]:
    """In fp64: where the softmax is nearly flat the terms cancel, and what rounding log(p + eps) to
    fp32 adds to the gradient of a code is the same for all latents (docs/soft_assign.md)."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    assigned = ops.soft_assign(
        z,
        codebook,
        outputs=("entropy", "mean_probability"),
        temperature=temperature,
        metric=metric,
        wide=True,
    )
    average = assigned.mean_probability
    return assigned.entropy.mean(), -(average * (average + eps).log()).sum()


def _dtype_of_terms(z: Tensor, codebook: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(z.dtype, codebook.dtype), torch.float32)
