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

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..models import VQGAN
from ..models.evaluating import evaluating
from ..quantizers import (
    EMAVectorQuantizer,
    GumbelQuantizer,
    IndexPropagationQuantizer,
    Quantizer,
    SimVQ,
    VectorQuantizer,
)
from ..quantizers.checks import check_integer, check_number
from ..sampling.progress import progress_bar
from .crops import RandomCrops

Score = Callable[[Tensor], Tensor]
Callback = Callable[[int, float, Tensor], object]

THROUGH = ("latents", "codes")


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
    terms = _terms(score)
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
    quantize = _quantisation(vqgan.quantize, through, temperature, generator)
    scores = []
    with evaluating(vqgan), _frozen(vqgan), progress_bar(steps, progress) as advance:
        z = _starting_latents(vqgan, start).requires_grad_()
        bounds = _bounds(vqgan)
        optimizer = torch.optim.Adam([z], learning_rate * _step_size(vqgan, z))
        average, mass = torch.zeros_like(z, requires_grad=False), 0.0
        for step in range(steps):
            with torch.enable_grad():
                images = clamp_with_gradient(vqgan.decode(quantize(z)))
                views = images if crops is None else crops(images, generator)
                total = sum(weight * _value(term, views) for term, weight in terms)
            scores.append(_finite(total, step))
            if callback is not None:
                callback(step, scores[-1], images.detach())
            z.grad = -_gradient(total, z)
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


def _terms(score: Score | Sequence[tuple[Score, float]]) -> list[tuple[Score, float]]:
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


def _value(score: Score, images: Tensor) -> Tensor:
    value = score(images)
    if not isinstance(value, Tensor) or value.shape not in ((), (len(images),)):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"score must return a scalar or ({len(images)},) tensor, got {got}")
    return value.mean()


def _finite(total: Tensor, step: int) -> float:
    value = float(total.detach())
    if not torch.isfinite(total.detach()):
        raise ValueError(f"score must be finite, got {value} at step {step}")
    return value


def _gradient(total: Tensor, z: Tensor) -> Tensor:
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, z, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "score must be differentiable in the images it is given; this one has no gradient "
            "there (is it computed under no_grad, or from integers?)"
        )
    return gradient


def _quantisation(
    quantizer: nn.Module, through: str, temperature: float, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """z (B, D, h, w) -> z_q, with the gradient that `through` names."""
    if through not in THROUGH:
        raise ValueError(f"through must be one of {', '.join(THROUGH)}, got {through!r}")
    if through == "codes" and not _takes_nearest(quantizer):
        raise ValueError(
            'through must be "latents" for a quantiser whose codes are not simply the nearest, '
            f'got "codes" and a {type(quantizer).__name__}'
        )

    def drawn(z: Tensor) -> Tensor:
        # A Gumbel quantiser would draw from torch's own generator.
        return quantizer(z, seed=int(torch.randint(2**63 - 1, (), generator=generator)))[0]

    def relaxed(z: Tensor) -> Tensor:
        codebook = quantizer.codebook.detach()
        spread = float((codebook - codebook.mean(0)).float().square().sum(1).mean())
        rows = z.movedim(1, -1)
        soft = ops.soft_assign(
            rows, codebook, outputs=("indices", "expected"), temperature=temperature * spread
        )
        hard = codebook[soft.indices]
        return (hard + (soft.expected - soft.expected.detach())).to(z.dtype).movedim(-1, 1)

    if through == "codes":
        return relaxed
    return drawn if isinstance(quantizer, GumbelQuantizer) else lambda z: quantizer(z)[0]


def _takes_nearest(quantizer: nn.Module) -> bool:
    """Whether each latent gets the code nearest to it: a code's own vector then gets that code."""
    nearest = isinstance(quantizer, VectorQuantizer | EMAVectorQuantizer | SimVQ)
    return nearest and not isinstance(quantizer, IndexPropagationQuantizer)


def _starting_latents(vqgan: VQGAN, start: Tensor) -> Tensor:
    """(B, D, h, w): the codes' own vectors, where the first step already counts.

    Where these would get other codes, the encoder's latents.
    """
    if not isinstance(start, Tensor):
        raise ValueError(f"start must be a torch.Tensor, got {type(start).__name__}")
    axes = 3 if vqgan.quantize.codes_per_latent == 1 else 4
    is_codes = start.ndim == axes and start.dtype in (torch.int64, torch.int32)
    if not start.is_floating_point() and not is_codes:
        raise ValueError(
            "start must be images (B, C, H, W), floating point in [-1, 1], or int64 codes "
            f"(B, h, w), got {start.dtype} of shape {tuple(start.shape)}"
        )
    start = start.to(vqgan.decoder.conv_out.weight.device)
    nearest = _takes_nearest(vqgan.quantize)
    with torch.no_grad():
        if start.is_floating_point():
            channels = vqgan.config["in_channels"]
            if start.ndim != 4 or start.shape[1] != channels:
                raise ValueError(
                    f"start must be (B, C, H, W) with C = {channels}, or codes (B, h, w), got "
                    f"{tuple(start.shape)}"
                )
            z_q = vqgan.encode(start)[0]  # refuses what are no pictures
            return (z_q if nearest else vqgan.quant_conv(vqgan.encoder(start))).clone()
        if not nearest:
            raise ValueError(
                f"start must be images for a {type(vqgan.quantize).__name__}, whose codes' own "
                "vectors are latents of other codes, got codes"
            )
        vqgan.decode_indices(start[:1])  # refuses codes that are none
        return vqgan.quantize.lookup(start).clone()


def _step_size(vqgan: VQGAN, z: Tensor) -> float:
    """What a learning rate of 1 means: the deviation of a code's entries, or of the latents'."""
    values = vqgan.quantize.codebook if isinstance(vqgan.quantize, Quantizer) else z
    return float(values.detach().float().std())


def _bounds(vqgan: VQGAN) -> tuple[Tensor, Tensor] | None:
    """The smallest and largest entries of the codes, (D, 1, 1) each; None where it is not the
    nearest code that counts.

    Beyond the outermost codes a latent changes nothing but how long its way back is.
    """
    if not _takes_nearest(vqgan.quantize):
        return None
    lowest, highest = vqgan.quantize.codebook.detach().aminmax(dim=0)
    return lowest[:, None, None], highest[:, None, None]


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
