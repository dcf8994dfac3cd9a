"""Rejection sampling: of many candidates, the best by a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models import LatentTransformer
from ..models.conditions import Tokens, map_tokens
from ..quantizers.checks import check_integer
from .images import sample
from .inputs import check_model, check_tensor, condition_batch, condition_parts
from .interrupted import SamplingInterrupted
from .packed import pack
from .seeds import Seeds, image_seeds

Score = Callable[[Tensor], Tensor]


class Best(NamedTuple):
    """What `sample_best` keeps for each of B conditions, the best first; on the CPU.

    Attributes:
        images: (B, keep, 3, f H, f W) in [-1, 1].
        codes: (B, keep, H, W) int64.
        scores: (B, keep) float64.
        seeds: (B, keep) int64, with which `sample` draws the same images again.
        candidates: how many were drawn for each condition.
    """

    images: Tensor
    codes: Tensor
    scores: Tensor
    seeds: Tensor
    candidates: int

    @property
    def acceptance_rate(self) -> float:
        """The share of the candidates that were kept."""
        return self.scores.shape[1] / self.candidates


def sample_best(
    model: LatentTransformer,
    cond: Tokens | None = None,
    grid: tuple[int, int] | None = None,
    *,
    candidates: int = 16,
    keep: int = 1,
    score: Score | Sequence[Score] | None = None,
    seeds: Seeds | None = None,
    batch: int = 16,
    weights: str | None = None,
    **options: Any,
) -> Best:
    """Draw several candidates for each condition and keep those with the highest scores.

    Args:
        model, grid: as for :func:`sample`.
        cond: as for `sample`, one row for each of B conditions, or one for all in some parts of a
            tuple; None is the model's own, B = 1.
        candidates: n, how many are drawn for each condition.
        keep: m, how many are kept, at most n. The mask that `sample` calls by that name
            is given by `known` alone here, which is -1 where a code is to be drawn.
        score: images (n, 3, f H, f W) in [-1, 1] -> (n,), higher is better, such as a classifier's
            probability of the class (:func:`classifier_score`); or one such function for each of
            the B conditions. It may be called for parts of the candidates. None ranks by the mean
            log-probability of the codes that were drawn.
        seeds: for each condition the seed of its first candidate; the others' follow it. None draws
            them from torch's global CPU generator.
        batch: how many candidates are drawn at once.
        weights: as for `sample_codes`.
        **options: everything else that `sample` takes (window, size, top_k, guidance, ...).
            `known` is (H, W) for all conditions, or (B, H, W) with codes for each; `uncond` has one
            row for all, or B.

    Returns:
        `Best`, whose tensors lie on the CPU, wherever the model is: candidates would fill a device.

    Raises:
        TypeError: model is no LatentTransformer, or `sample` has no such option.
        ValueError: an argument is out of range or does not fit the others; the message names it.
        SamplingInterrupted: Ctrl-C; `best` holds the best candidates that were complete, and
            `finished` what is kept for the conditions before.
    """
    check_model(model)
    for name in options:
        if name not in signature(sample).parameters:
            raise TypeError(f"sample_best() got an unexpected keyword argument {name!r}")
    for name, value in (("candidates", candidates), ("keep", keep), ("batch", batch)):
        check_integer(name, value)
    if keep > candidates:
        raise ValueError(f"keep must be at most candidates = {candidates}, got {keep}")
    for name in ("num_images", "return_codes", "return_logprobs"):
        if name in options:
            raise ValueError(f"{name} is not an option here: sample_best decides it")
    if cond is None:
        cond = model.cond_stage_model(1, model.transformer.head.weight.device)
    transformer = options.pop("transformer", None)
    packed = pack(model.transformer if transformer is None else transformer, weights)
    conditions = _rows("cond", cond)
    number = len(conditions)
    own_options = _own_options(options, number)
    first_seeds, scores_of = image_seeds(seeds, number), _one_for_each(score, number)
    kept: list[list[Tensor]] = []
    for row, condition in enumerate(conditions):
        best: list[Tensor] = []
        for numbers in torch.arange(candidates, device="cpu").split(batch):
            part_seeds = first_seeds[row] + numbers  # int64 wraps as 64-bit seeds do
            own = map_tokens(partial(_repeated, number=len(numbers)), condition)
            try:
                images, codes, logprobs = sample(
                    model, own, grid, seeds=part_seeds, transformer=packed, return_codes=True,
                    return_logprobs=True, **own_options[row],
                )  # fmt: skip
                scores = _scores(scores_of[row], images, codes, logprobs)
            except SamplingInterrupted as interrupted:
                if best:
                    interrupted.best = Best(*(tensor[None] for tensor in best), int(numbers[0]))
                if kept:
                    interrupted.finished = _stacked(kept, candidates)
                raise
            part = [images, codes, scores, part_seeds]
            best = _highest([*zip(best, part, strict=True)] if best else [(x,) for x in part], keep)
        kept.append(best)
    return _stacked(kept, candidates)


def _rows(name: str, tokens: Tokens, number: int | None = None) -> list[Tokens]:
    """The tokens of each condition, one row each; arguments and errors as `condition_batch`."""
    number = condition_batch(name, condition_parts(name, tokens), number)
    whole = map_tokens(partial(_repeated, number=number), tokens)
    return [map_tokens(itemgetter([row]), whole) for row in range(number)]


def _repeated(part: Tensor, number: int) -> Tensor:
    """So many rows, of as many or of one."""
    return part.expand(number, *part.shape[1:])


def _own_options(options: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """The options of each of so many conditions: in `known` and `uncond` its own row."""
    own = [dict(options) for _ in range(number)]
    known, uncond = options.get("known"), options.get("uncond")
    if known is not None:
        check_tensor("known", known)
        if known.ndim != 2 and (known.ndim != 3 or len(known) != number):
            raise ValueError(
                f"known must be (H, W), or (B, H, W) with a row for each of the {number} "
                f"conditions, got {tuple(known.shape)}"
            )
        for row, part in enumerate(known if known.ndim == 3 else ()):
            own[row]["known"] = part
    if uncond is not None:
        for row, tokens in enumerate(_rows("uncond", uncond, number)):
            own[row]["uncond"] = tokens
    return own


def _stacked(kept: list[list[Tensor]], candidates: int) -> Best:
    """What was kept for each of several conditions."""
    return Best(*(torch.stack(parts) for parts in zip(*kept, strict=True)), candidates)


def _scores(score: Score | None, images: Tensor, codes: Tensor, logprobs: Tensor) -> Tensor:
    """(n,) float64; an interruption while a score is computed leaves the images."""
    try:
        scores = _likelihood(logprobs) if score is None else score(images)
    except KeyboardInterrupt:
        number = codes.numel()
        interrupted = SamplingInterrupted(codes, logprobs, number, number)
        interrupted.images = images
        raise interrupted from None
    return _checked(scores, len(images))


def _one_for_each(score: Score | Sequence[Score] | None, number: int) -> list[Score | None]:
    if score is None or callable(score):
        return [score] * number
    several = isinstance(score, Sequence) and not isinstance(score, str)
    if not several or len(score) != number or not all(map(callable, score)):
        given = len(score) if several else repr(score)
        raise ValueError(
            f"score must be one function, or one for each of the {number} conditions, got {given}"
        )
    return list(score)


def _likelihood(logprobs: Tensor) -> Tensor:
    return logprobs.flatten(1).double().mean(1)


def _checked(scores: Tensor, number: int) -> Tensor:
    """float64 on the CPU, of a tensor or what torch makes one of."""
    kind = type(scores).__name__
    try:
        scores = torch.as_tensor(scores, device="cpu").detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"score must return one number for each of the {number} images, got {kind}"
        ) from None
    if scores.shape != (number,) or scores.isnan().any():
        got = f"shape {tuple(scores.shape)}" if scores.shape != (number,) else "NaN"
        raise ValueError(
            f"score must return one number for each of the {number} images, none of them NaN, got "
            f"{got}"
        )
    return scores


def _highest(parts: list[tuple[Tensor, ...]], keep: int) -> list[Tensor]:
    """Of images, codes, scores and seeds in parts, the rows with the highest scores."""
    images, codes, scores, seeds = (torch.cat([t.cpu() for t in part]) for part in parts)
    order = scores.sort(descending=True, stable=True).indices[:keep]
    return [images[order], codes[order], scores[order], seeds[order]]
