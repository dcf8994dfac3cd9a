"""From logits to a code: temperature, top-k, top-p and the draw itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from .philox import gumbel_noise

# Probabilities are summed as multiples of 2^-40 of the largest one: integer sums have no rounding,
# so that the set that top-p keeps does not depend on the order of summation. 2^40 leaves room for
# 2^22 codes.
FIXED_POINT = 2.0**40


@dataclass(frozen=True)
class DrawRule:
    """How a code is drawn from its logits.

    The logits, minus their largest and divided by `temperature`, are filtered by `top_k` and then
    by `top_p`; the code drawn is the argmax of what is left plus the Gumbel noise of (seed, cell,
    code): see :func:`vqgan_fast.sampling.philox.gumbel_noise`. All of it is fp64. Equal values
    count as ranked by their codes, lowest first: in the filters as in the argmax.

    Attributes:
        temperature: divides the logits; finite and > 0.
        top_k: keep the k likeliest codes; None keeps all.
        top_p: of the codes that top-k keeps, keep the fewest likeliest ones that together hold at
            least this share of their probability, in (0, 1]; None or 1 keeps all.
        greedy: take the likeliest code and draw nothing; the filters cannot change it.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be finite and > 0, got {self.temperature}")
        is_integer = isinstance(self.top_k, Integral) and not isinstance(self.top_k, bool)
        if self.top_k is not None and not (is_integer and self.top_k >= 1):
            raise ValueError(f"top_k must be an integer >= 1 or None, got {self.top_k!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] or None, got {self.top_p}")

    def check_vocabulary(self, num_codes: int) -> None:
        """Raise a ValueError if top-k asks for more codes than there are."""
        if self.top_k is not None and self.top_k > num_codes:
            raise ValueError(f"top_k must be at most the {num_codes} codes, got {self.top_k}")

    def draw(self, logits: Tensor, seeds: Tensor, cells: Tensor | int) -> Tensor:
        """Draw one code for each row.

        Args:
            logits: (B, V), any floating dtype; -inf forbids a code.
            seeds: (B,) int64, the images' seeds.
            cells: index of the cell in its grid, row * width + column: one int, or (B,) int64.

        Returns:
            (B,) int64 codes in [0, V).

        Raises:
            ValueError: top_k exceeds V, or a row of logits holds a NaN, +inf, or nothing but -inf.
        """
        self.check_vocabulary(logits.shape[-1])
        logits = logits.double()
        highest = logits.amax(-1, keepdim=True)  # NaN where the row holds one
        if not highest.isfinite().all():
            raise ValueError(
                "logits must hold no NaN or +inf, and a finite value in each row: "
                f"the largest of the rows are {highest.flatten().tolist()}"
            )
        if self.greedy:
            return logits.argmax(-1)
        codes, scores = self.candidates((logits - highest) / self.temperature)
        best = (scores + gumbel_noise(seeds, cells, codes)).argmax(-1, keepdim=True)
        return codes.expand_as(scores).gather(-1, best).squeeze(-1)

    def candidates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The codes that may be drawn, ascending, and their scores.

        Args:
            scores: (B, V) fp64, the logits over the temperature, with 0 as the largest of each row.

        Returns:
            codes (K,) or (B, K) int64 and scores (B, K) fp64, -inf where top-p drops a code.
        """
        codes = torch.arange(scores.shape[-1], device=scores.device)
        if self.top_k is not None:
            codes = _likeliest(scores, self.top_k)
            scores = scores.gather(-1, codes)
        if self.top_p not in (None, 1):
            scores = scores.masked_fill(~_nucleus(scores, self.top_p), -math.inf)
        return codes, scores


def _likeliest(scores: Tensor, k: int) -> Tensor:
    """The codes (B, k) of the k highest scores (B, V), ascending; ties count from the lowest."""
    kth = scores.topk(k).values[:, -1:]
    above, tied = scores > kth, scores == kth
    room = k - above.sum(-1, keepdim=True)
    kept = above | (tied & (tied.cumsum(-1) <= room))
    return kept.nonzero()[:, 1].view(-1, k)


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Which of the scores (B, K) are the fewest highest that hold `share` of the probability."""
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    mass = (ranked.exp() * FIXED_POINT).round().long()
    likelier = mass.cumsum(-1) - mass
    kept = likelier < share * mass.sum(-1, keepdim=True).double()
    return torch.empty_like(kept).scatter_(-1, order, kept)
