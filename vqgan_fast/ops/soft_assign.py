"""Soft assignment of latents to codes: softmax over the codebook without the N x K matrix."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import reference
from .checks import check_soft_assign, soft_assign_type
from .registration import check_tensors, refuse_forward_mode, register_fallback

_OP = "vqgan_fast::soft_assign"
_BACKWARD_OP = "vqgan_fast::soft_assign_backward"

METRICS = ("l2", "dot")
# What the op gives in the wide type, whatever its inputs.
_WIDE = ("entropy", "mean_probability")


class SoftAssignment(NamedTuple):
    """What `soft_assign` was asked for; None for the rest."""

    log_sum_exp: Tensor | None = None
    """(..., N) log of the sum over k of exp(logit)."""
    expected: Tensor | None = None
    """(..., N, C) mean of the values under the probabilities."""
    entropy: Tensor | None = None
    """(..., N) -sum over k of p log p, in nats."""
    mean_probability: Tensor | None = None
    """(K,) mean of the probabilities over all N latents."""
    indices: Tensor | None = None
    """(..., N) int64, the code of the largest logit."""


def soft_assign(
    z: Tensor,
    codebook: Tensor,
    *,
    outputs: Iterable[str],
    temperature: float = 1.0,
    metric: str = "l2",
    values: Tensor | None = None,
    bias: Tensor | None = None,
    seed: Tensor | int | None = None,
    wide: bool = False,
) -> SoftAssignment:
    """Assigns every latent to all codes, with probabilities.

        s[n, k] = -|z[n] - codebook[k]|^2  ("l2")   or   z[n] . codebook[k]  ("dot")
        logit[n, k] = (s[n, k] + bias[k] + g[n, k]) / temperature
        p[n] = softmax over k of logit[n]

        log_sum_exp[n] = log sum_k exp(logit[n, k])
        expected[n] = sum_k p[n, k] values[k]
        entropy[n] = -sum_k p[n, k] log p[n, k]
        mean_probability[k] = mean over n of p[n, k]
        indices[n] = argmax_k logit[n, k],   ties to the lowest k

    With a `seed`, g is standard Gumbel noise, so that `indices` is a draw from softmax(s + bias)
    whatever the temperature (the Gumbel-max trick), and `expected` is the Gumbel-softmax relaxation
    of that draw (Jang et al., "Categorical reparameterization with Gumbel-softmax", 2017); without
    one, g = 0. The noise is a function of (seed, number of the latent, code) alone:
    `docs/soft_assign.md` defines it.

    Memory is O(N (D + C) + K (D + C)), forward and backward: blocks of logits are computed, used
    and dropped, and computed again by the backward pass, as flash attention does with the codebook
    as keys and values (Dao et al., 2022). Sums are in fp32, in fp64 if an input is; results are the
    same bits for every thread count.

    Args:
        z: latents (..., N, D), float16, bfloat16, float32 or float64, with any strides: images
            (B, D, H, W) are passed as `z.movedim(1, -1)` and read in place.
        codebook: (K, D). Types may differ between all arguments.
        outputs: names of the fields of the result that are wanted.
        temperature: a positive number; there is no gradient by it.
        metric: "l2" or "dot".
        values: (K, C), the codebook if not given. Only "expected" uses them.
        bias: (K,). Minus infinity takes a code out.
        seed: of the noise: an integer, Python's or numpy's, or an int64 tensor of one element on
            the device of z, which `torch.compile` can leave unknown.
        wide: entropy and mean_probability as they were summed, in float64 where the device has it,
            and so their gradients: for losses in which they cancel.

    Returns:
        A `SoftAssignment`, float32 (float64 if an input is) but for the indices. All floating-point
        results are differentiable, once, in z, codebook, values and bias. A latent whose logits
        hold a NaN has NaN results and index 0.

    Raises:
        ValueError: an unknown metric or output, values that no output uses, or a temperature that
            requires a gradient.
        TypeError: an argument that must be a tensor is none.
        RuntimeError: sizes, types or devices do not fit; K, D or C is 0; temperature
            is not positive.
    """
    if metric not in METRICS:
        raise ValueError(f'metric must be "l2" or "dot", got {metric!r}')
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise ValueError(f'outputs must be a collection such as ("expected",), got {outputs!r}')
    outputs = tuple(outputs)  # an iterator would be empty when it is asked again
    unknown = [name for name in outputs if name not in SoftAssignment._fields]
    if unknown or not outputs:
        raise ValueError(
            f"outputs must be among {', '.join(SoftAssignment._fields)}, got {unknown or 'none'}"
        )
    if "expected" in outputs:
        values = codebook if values is None else values
    elif values is not None:
        raise ValueError('values are used by the output "expected" alone, which is not asked for')
    check_tensors(z=z, codebook=codebook, values=values, bias=bias)
    learned = isinstance(temperature, Tensor) and temperature.requires_grad
    if learned and torch.is_grad_enabled():
        raise ValueError("temperature must not require a gradient, as soft_assign has none by it")
    if isinstance(seed, Integral):
        # As 64 bits, of which int64 holds the upper half as negative numbers.
        seed = torch.tensor((int(seed) + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=z.device)
    check_tensors("an integer or a torch.Tensor", seed=seed)
    refuse_forward_mode("soft_assign", z, codebook, values, bias)
    found = torch.ops.vqgan_fast.soft_assign(
        z,
        codebook,
        values,
        bias,
        seed,
        temperature,
        metric == "l2",
        "entropy" in outputs,
        "mean_probability" in outputs,
        "indices" in outputs,
    )
    named = zip(SoftAssignment._fields, found[:5], strict=True)
    results = {name: tensor for name, tensor in named if name in outputs}
    for name in _WIDE:
        if name in results and not wide:
            results[name] = results[name].to(found[0].dtype)
    return SoftAssignment(**results)


register_fallback(_OP, reference.soft_assign)
register_fallback(_BACKWARD_OP, reference.soft_assign_backward)


@torch.library.register_fake(_OP)
def _fake(
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
) -> tuple[Tensor, ...]:
    check_soft_assign(z, codebook, values, bias, seed, temperature)
    rows, dtype = z.shape[:-1], soft_assign_type(z, codebook, values, bias)
    wide = reference.wide_type(z)

    def new(needed: bool, shape: tuple[int, ...], dtype: torch.dtype = dtype) -> Tensor:
        return z.new_empty(shape if needed else (0,), dtype=dtype)

    return (
        new(True, rows),
        new(values is not None, (*rows, 0 if values is None else values.shape[1])),
        new(need_entropy, rows, wide),
        new(need_mean, codebook.shape[:1], wide),
        new(need_indices, rows, torch.int64),
        new(True, (*rows, 3), wide),
    )


@torch.library.register_fake(_BACKWARD_OP)
def _fake_backward(
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
    check_soft_assign(z, codebook, values, bias, seed, temperature)
    needed = (need_z, need_codebook, need_values, need_bias)
    return tuple(
        torch.empty_like(tensor) if need and tensor is not None else z.new_empty(0)
        for tensor, need in zip((z, codebook, values, bias), needed, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    z, codebook, values, bias, seed, ctx.temperature, ctx.squared, *_ = inputs
    _, expected, _, _, _, statistics = output
    ctx.save_for_backward(z, codebook, values, bias, seed, expected, statistics)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple:
    *grads, _, _ = grads  # of indices and statistics, which are not differentiable
    needed = ctx.needs_input_grad[:4]
    found = [None] * 4
    if any(grad is not None for grad in grads):
        tensors = ctx.saved_tensors
        gradients = torch.ops.vqgan_fast.soft_assign_backward(
            *grads, *tensors, ctx.temperature, ctx.squared, *needed
        )
        found = [g if need else None for g, need in zip(gradients, needed, strict=True)]
    return (*found, *[None] * 6)


def _no_second_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    raise RuntimeError("soft_assign can be differentiated once, not twice")


torch.library.register_autograd(_OP, _backward, setup_context=_setup_context)
torch.library.register_autograd(_BACKWARD_OP, _no_second_backward)
