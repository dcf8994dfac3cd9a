"""Plain-torch definition of `soft_assign`: the formulas as they stand, a block of rows at a time.

In fp64 where the device has it (fp32 on MPS), so that it can judge the kernels too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import check_soft_assign, soft_assign_type
from .codebook import BLOCK_ELEMENTS, wide_type
from .philox import WORD, philox_4x32


def gumbel_noise(seed: Tensor, rows: Tensor, num_codes: int) -> Tensor:
    """The Gumbel noise of some latents and all codes.

    Word k mod 4 of Philox 4x32-10 with counter (k div 4, n mod 2^32, n div 2^32, 0) and the two
    halves of the seed as key, x, gives u = (x + 1/2) / 2^32 and the noise -log(-log(u)).

    Args:
        seed: int64, one element.
        rows: (N,) int64, numbers of the latents.
        num_codes: K.

    Returns:
        (N, K) fp64.
    """
    seed = seed.reshape(())
    groups = torch.arange((num_codes + 3) // 4, device=rows.device)
    n = rows[:, None]
    counter = (groups, n & WORD, n >> 32, torch.zeros_like(n))
    words = torch.stack(philox_4x32(counter, (seed & WORD, (seed >> 32) & WORD)), dim=-1)
    u = (words.flatten(1)[:, :num_codes].double() + 0.5) * 2.0**-32
    return -(-u.log()).log()


def soft_assign(
    z: Tensor,
    codebook: Tensor,
    values: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    temperature: float,
    squared: bool,
    need_entropy: bool,
    need_mean: bool,
    need_indices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The `soft_assign` op: entropy and mean in the wide type, and so `statistics` (..., 3), which
    are log_sum_exp, entropy and the index."""
    check_soft_assign(z, codebook, values, bias, seed, temperature)
    wide, dtype = wide_type(z), soft_assign_type(z, codebook, values, bias)
    parts, mean = [], torch.zeros(len(codebook), dtype=wide, device=z.device)
    for _, logits in _blocks(z, codebook, bias, seed, temperature, squared):
        log_sum_exp = logits.logsumexp(1)
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        mean += p.sum(0)
        # Without a bias of minus infinity, 0 log 0 does not arise.
        entropy = -(p * log_p.masked_fill(p == 0, 0)).sum(1)
        expected = p[:, :0] if values is None else p @ values.to(wide)
        index = logits.argmax(1).masked_fill(log_sum_exp.isnan(), 0)
        parts.append((log_sum_exp, expected, entropy, index))
    shape = z.shape[:-1]
    if parts:
        log_sum_exp, expected, entropy, index = (torch.cat(x) for x in zip(*parts, strict=True))
    else:
        log_sum_exp = entropy = index = mean.new_empty(0)
        expected = mean.new_empty(0, 0 if values is None else values.shape[1])
    empty = z.new_empty(0, dtype=dtype)
    wide_empty = z.new_empty(0, dtype=wide)
    return (
        log_sum_exp.reshape(shape).to(dtype),
        empty if values is None else expected.reshape(*shape, values.shape[1]).to(dtype),
        entropy.reshape(shape).to(wide) if need_entropy else wide_empty,
        mean / log_sum_exp.numel() if need_mean else wide_empty,
        index.reshape(shape).long() if need_indices else z.new_empty(0, dtype=torch.int64),
        torch.stack([log_sum_exp, entropy, index], dim=-1).reshape(*shape, 3).to(wide),
    )


def soft_assign_backward(
    grad_log_sum_exp: Tensor | None,
    grad_expected: Tensor | None,
    grad_entropy: Tensor | None,
    grad_mean_probability: Tensor | None,
    z: Tensor,
    codebook: Tensor,
    values: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    expected: Tensor,
    statistics: Tensor,
    temperature: float,
    squared: bool,
    need_z: bool,
    need_codebook: bool,
    need_values: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `soft_assign_backward` op: grad_z, grad_codebook, grad_values, grad_bias.

    `expected` and `statistics` are not needed here.
    """
    check_soft_assign(z, codebook, values, bias, seed, temperature)
    wide, codes = wide_type(z), codebook.to(wide_type(z))
    num_rows = z.shape[:-1].numel()
    column = [
        None if grad is None else grad.reshape(num_rows, width).to(wide)
        for grad, width in (
            (grad_log_sum_exp, 1),
            (grad_expected, 0 if values is None else values.shape[1]),
            (grad_entropy, 1),
        )
    ]
    grad_z = []
    grad_codes, grad_bias = torch.zeros_like(codes), torch.zeros_like(codes[:, 0])
    grad_values = None if values is None else torch.zeros(values.shape, dtype=wide, device=z.device)
    first = 0
    for rows, logits in _blocks(z, codebook, bias, seed, temperature, squared):
        of_lse, of_expected, of_entropy = (
            None if grad is None else grad[first : first + len(rows)] for grad in column
        )
        first += len(rows)
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        # By the probabilities; their own constraint is taken off by the softmax's gradient.
        by_p = torch.zeros_like(p)
        if of_expected is not None:
            by_p = by_p + of_expected @ values.to(wide).T
            grad_values += p.T @ of_expected
        if of_entropy is not None:
            by_p = by_p - of_entropy * log_p.masked_fill(p == 0, 0)
        if grad_mean_probability is not None:
            by_p = by_p + grad_mean_probability.to(wide) / num_rows
        by_logit = p * (by_p - (p * by_p).sum(1, keepdim=True))
        if of_lse is not None:
            by_logit = by_logit + p * of_lse
        by_score = by_logit / temperature
        grad_bias += by_score.sum(0)
        if squared:
            grad_z.append(2 * (by_score @ codes - by_score.sum(1, keepdim=True) * rows))
            grad_codes += 2 * (by_score.T @ rows - by_score.sum(0)[:, None] * codes)
        else:
            grad_z.append(by_score @ codes)
            grad_codes += by_score.T @ rows
    empty = z.new_empty(0)
    found = torch.cat(grad_z).reshape(z.shape) if grad_z else torch.zeros_like(z)
    return (
        torch.empty_like(z).copy_(found) if need_z else empty,
        torch.empty_like(codebook).copy_(grad_codes) if need_codebook else empty,
        torch.empty_like(values).copy_(grad_values)
        if need_values and values is not None
        else empty,
        torch.empty_like(bias).copy_(grad_bias) if need_bias and bias is not None else empty,
    )


def _blocks(
    z: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    temperature: float,
    squared: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows (n, D) after the other, with their logits (n, K), in the wide type."""
    wide = wide_type(z)
    codes = codebook.to(wide)
    flat = z.reshape(-1, z.shape[-1])
    block = max(1, BLOCK_ELEMENTS // len(codes))
    for start in range(0, len(flat), block):
        rows = flat[start : start + block].to(wide)
        if squared:
            scores = rows.new_zeros(len(rows), len(codes))
            for d in range(codes.shape[1]):
                difference = rows[:, d, None] - codes[:, d]
                scores.addcmul_(difference, difference, value=-1)
        else:
            scores = rows @ codes.T
        if bias is not None:
            scores = scores + bias.to(wide)
        if seed is not None:
            numbers = torch.arange(start, start + len(rows), device=z.device)
            scores = scores + gumbel_noise(seed, numbers, len(codes)).to(wide)
        yield rows, scores / temperature
