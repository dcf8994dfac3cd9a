"""Optimising the latents of a VQGAN against a score of its pictures.

The way of VQGAN+CLIP (Crowson et al., "VQGAN-CLIP: open domain image generation and editing with
natural language guidance", ECCV 2022), for any differentiable score:

    z_q = quantise(z)                    forward: the nearest codes
    x = decode(z_q)
    z <- Adam(z, d score(crops of x) / d z)

The quantiser passes the gradient at z_q straight through to z, or, with through="codes", weighs
the codes around z by their distance, so that the gradient asks for the better of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models import VQGAN
from ..models.evaluating import evaluating
from ..quantizers.checks import check_integer
from ..sampling.progress import progress_bar
from .crops import RandomCrops
from .latents import latent_bounds, quantisation, starting_latents, step_size
from .scores import Score, clamp_with_gradient, finite, gradient_of, score_of, score_terms

Callback = Callable[[int, float, Tensor], object]


class Guided(NamedTuple):
    """What `guide` found.

    Attributes:
        images: (B, C, H, W) in [-1, 1], decoded from `codes`.
        codes: (B, h, w) int64, or (B, h, w, Q) of a residual quantiser.
        scores: (steps,) float64, the weighted score before each step.
    """

    images: Tensor
    codes: Tensor
    scores: Tensor


def guide(
    vqgan: VQGAN,
    score: Score | Sequence[tuple[Score, float]],
    start: Tensor,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    through: str = "latents",
    temperature: float = 0.1,
    crops: RandomCrops | None = None,
    ema_decay: float | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    progress: bool = False,
) -> Guided:
    """Change pictures step by step towards a higher score.

    Args:
        vqgan: decodes; its weights stay as they are.
        score: images (N, C, H, W) in [-1, 1] -> (N,), whose mean counts, or a scalar for all of
            them together, higher is better; or several of them with their weights (a negative one
            pushes away): prompts, say.
        start: images (B, C, H, W) in [-1, 1], or codes (B, h, w) int64 of a quantiser that takes
            the nearest one, to start from. The first pictures are the reconstructions; random codes
            start from nothing.
        steps: how many.
        learning_rate: Adam's, in standard deviations of the codebook's entries: about how far a
            latent's entry moves in a step.
        through: "latents" gives z the gradient at its code, unchanged; "codes" gives it the
            gradient of sum_k p_k e_k with p the softmax over -|z - e_k|^2 / temperature: it knows
            which codes are near. The forward value is the nearest code in either case.
        temperature: of "codes", in units of the codes' mean squared distance from their mean.
        crops: score these crops of the pictures instead of the whole; None scores the whole.
        ema_decay: return the moving average of the latents with this decay, in [0, 1), instead of
            the last ones: calmer pictures.
        seed: of the crops, and of the draws of a Gumbel quantiser.
        callback: called as callback(step, score, images) before each step.
        progress: show a bar.

    Returns:
        Guided; the pictures are those of nearest codes, as any decoder of `codes` gives them.

    Raises:
        ValueError: an argument is out of range; a score that is no scalar or (N,), not finite, or
            has no gradient at the images; a quantiser that `through` or `start` does not work with.
    """
    terms = score_terms(score)
    check_integer("steps", steps)
    check_integer("seed", seed, minimum=-(2**63), maximum=2**64 - 1)
    if crops is not None and not callable(crops):
        raise ValueError(f"crops must be RandomCrops, a callable like it, or None, got {crops!r}")
    for name, value in (("learning_rate", learning_rate), ("temperature", temperature)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}")
    generator = torch.Generator().manual_seed(int(seed))
    quantize = quantisation(vqgan.quantize, through, temperature, generator)
    scores = []
    with evaluating(vqgan), _frozen(vqgan), progress_bar(steps, progress) as advance:
        z = starting_latents(vqgan, start).requires_grad_()
        bounds = latent_bounds(vqgan)
        optimizer = torch.optim.Adam([z], learning_rate * step_size(vqgan, z))
        average, mass = torch.zeros_like(z, requires_grad=False), 0.0
        for step in range(steps):
            with torch.enable_grad():
                images = clamp_with_gradient(vqgan.decode(quantize(z)))
                views = images if crops is None else crops(images, generator)
                total = sum(weight * score_of(term, views) for term, weight in terms)
            scores.append(finite(total, step))
            if callback is not None:
                callback(step, scores[-1], images.detach())
            z.grad = -gradient_of(total, z)
            optimizer.step()
            with torch.no_grad():
                if bounds is not None:
                    z.clamp_(*bounds)
                if ema_decay is not None:
                    average.lerp_(z, 1 - ema_decay)
                    mass += (1 - ema_decay) * (1 - mass)
            advance(1)
    final = z.detach() if ema_decay is None else average / mass
    with torch.no_grad(), evaluating(vqgan):
        codes = vqgan.quantize.encode(final)
        images = vqgan.decode_indices(codes).clamp(-1, 1)
    return Guided(images, codes, torch.tensor(scores, dtype=torch.float64))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No weight takes a gradient: nothing is kept for one in the forward pass."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
