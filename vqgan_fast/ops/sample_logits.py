"""From logits to a code, by the Gumbel-max trick with counter-based noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_codes, check_draw, check_forbidden, check_guidance, check_logits
from .registration import check_tensors, register_fallback, require_tensors

_OP = "vqgan_fast::sample_logits"


@torch.no_grad()
def sample_logits(
    logits: Tensor,
    seeds: Tensor,
    cells: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    greedy: bool = False,
    uncond_logits: Tensor | None = None,
    guidance: float = 1.0,
    forbidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws one code for each row; the draw is a function of logits, seed and cell alone.

    In fp64, in this order:

        l = uncond + guidance (logits - uncond)          if uncond_logits is given, else logits
        s = (l - max l) / temperature
        top-k:  keep the k highest
        top-p:  of those, keep the fewest highest that hold the share top_p of their probability
        min-p:  keep those at least min_p times as likely as the likeliest
        code = argmax over what is kept of s - log(-log(u[code]))

    with u the Philox numbers of (seed, cell, code): `vqgan_fast/ops/reference/philox.py`. Equal
    values rank by their codes, lowest first, in filters and argmax. Probabilities are summed in
    fixed point, so no order of summation enters: equal logits give equal codes on every device.

    Args:
        logits: (B, V) float32; -inf forbids a code. Rows may be strided. V is at most 2^22: the
            sums in fixed point have no room for more.
        seeds: (B,) int64, the 64 bits of each image's seed.
        cells: (B,) int64 in [0, 2^32), index of each row's cell in its grid.
        temperature: finite, >= 0; 0 is greedy.
        top_k: >= 1 and at most V; None keeps all.
        top_p: in (0, 1]; None keeps all.
        min_p: in (0, 1]; None keeps all.
        greedy: take the highest logit, the lowest code among equals, and draw nothing.
        uncond_logits: like logits, of the model without its condition: classifier-free guidance. A
            code that is -inf in either is forbidden.
        guidance: finite; 1 is the conditional model.
        forbidden: bool, (V,) or (B, V): codes that must not be drawn.

    Returns:
        codes (B,) int64 and logprobs (B,) float32, the log-probability of each code under
        softmax(l): at temperature 1 and before the filters, what the model gives it. Without
        gradients.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: an option out of range.
        RuntimeError: sizes, types or devices do not fit; on the CPU also a row that holds NaN,
            +inf, or nothing but -inf. CUDA cannot raise without waiting: such a row has code -1 and
            log-probability NaN.
    """
    check_draw(temperature, top_k, top_p, min_p)
    check_guidance(guidance)
    require_tensors(logits=logits, seeds=seeds, cells=cells)
    check_tensors(uncond_logits=uncond_logits, forbidden=forbidden)
    check_codes(logits)
    if forbidden is not None:
        check_forbidden(forbidden, logits)
        logits = logits.masked_fill(forbidden, -math.inf)
    return torch.ops.vqgan_fast.sample_logits(
        logits,
        seeds,
        cells,
        uncond_logits,
        float(guidance),
        0.0 if greedy else float(temperature),
        top_k or 0,
        1.0 if top_p is None else float(top_p),
        -math.inf if min_p is None else math.log(min_p),
    )


register_fallback(_OP, reference.sample_logits)


@torch.library.register_fake(_OP)
def _fake(
    logits: Tensor,
    seeds: Tensor,
    cells: Tensor,
    uncond_logits: Tensor | None,
    guidance: float,
    temperature: float,
    top_k: int,
    top_p: float,
    log_min_p: float,
) -> tuple[Tensor, Tensor]:
    check_logits(logits, seeds, cells, uncond_logits, top_k)
    codes = logits.new_empty(logits.shape[0], dtype=torch.int64)
    return codes, logits.new_empty(logits.shape[0])
