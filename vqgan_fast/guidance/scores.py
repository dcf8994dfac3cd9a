"""Scores of pictures: what they must be, and a gradient that finds back to the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..quantizers.checks import check_number

Score = Callable[[Tensor], Tensor]


def score_terms(score: Score | Sequence[tuple[Score, float]]) -> list[tuple[Score, float]]:
    """Scores with their weights; ValueError where `score` is no such thing."""
    if callable(score):
        return [(score, 1.0)]
    terms = list(score) if isinstance(score, Iterable) else [score]
    for term in terms:
        if not (isinstance(term, tuple) and len(term) == 2 and callable(term[0])):
            raise ValueError(f"score must be a callable or (callable, weight) pairs, got {term!r}")
        weight = term[1].item() if isinstance(term[1], Tensor) and term[1].ndim == 0 else term[1]
        check_number("the weight of a score", weight)
    if not terms:
        raise ValueError("score must hold at least one (callable, weight) pair, got none")
    return terms


def score_of(score: Score, images: Tensor) -> Tensor:
    """The mean of a score over images (N, C, H, W), a scalar; ValueError for another shape."""
    value = score(images)
    if not isinstance(value, Tensor) or value.shape not in ((), (len(images),)):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"score must return a scalar or ({len(images)},) tensor, got {got}")
    return value.mean()


def finite(total: Tensor, step: int) -> float:
    """A scalar as a number; ValueError where it is none."""
    value = float(total.detach())
    if not torch.isfinite(total.detach()):
        raise ValueError(f"score must be finite, got {value} at step {step}")
    return value


def gradient_of(total: Tensor, z: Tensor) -> Tensor:
    """That of a scalar at z, in z's shape; ValueError where no gradient leads there."""
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, z, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "score must be differentiable in the images it is given; this one has no gradient "
            "there (is it computed under no_grad, or from integers?)"
        )
    return gradient


class _ClampWithGradient(torch.autograd.Function):
    """Clamps to [-1, 1]; a gradient that leads back inside passes where the clamp acts."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # The score rises along grad_output: above 1 only a negative one leads back.
        leads_out = grad_output * (x - x.clamp(-1, 1)) > 0
        return grad_output.masked_fill(leads_out, 0)


def clamp_with_gradient(x: Tensor) -> Tensor:
    """x clamped to [-1, 1], whose gradient is lost only where it would lead further out.

    Plain `clamp` leaves a pixel that is too bright without any gradient: it could never come back.
    The sign is that of a score that is to rise.
    """
    return _ClampWithGradient.apply(x)
