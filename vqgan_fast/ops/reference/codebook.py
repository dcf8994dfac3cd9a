"""Plain-torch definitions of the ops on latents and codebooks.

They say what the kernels compute, run on devices without a kernel, and never hold more than a block
of the N x K distances. Sums are in fp64 where the device has it (in fp32 on MPS), d ascending as in
the definition, but with two roundings where the kernels' fused multiply-add has one: rows whose two
best codes differ by less than that may choose the other one.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..checks import accumulation_type, check_search, check_stats

# Distances that are held at a time.
BLOCK_ELEMENTS = 1 << 20


def wide_type(tensor: Tensor) -> torch.dtype:
    """The type to sum in on the device of `tensor`: MPS has no fp64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def nearest_code(z: Tensor, codebook: Tensor, exact: bool = True) -> tuple[Tensor, Tensor]:
    """The `nearest_code` op. `exact` changes nothing here.

    Args:
        z: (..., N, D).
        codebook: (K, D), or (..., K, D) with the leading sizes of z.

    Returns:
        indices (..., N) int64 and squared distances (..., N), float32 or float64.
    """
    check_search(z, codebook)
    indices, distances = _search(z, codebook)
    return indices, distances.to(accumulation_type(z, codebook))


def vector_quantize(
    z: Tensor, codebook: Tensor, exact: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `vector_quantize` op: z_q, indices, commitment_loss, codebook_loss."""
    check_search(z, codebook)
    indices, distances = _search(z, codebook)
    codes = lookup(codebook, indices)
    z_q = torch.empty_like(z).copy_(z + (codes - z))
    loss = (distances.sum() / z.numel()).to(accumulation_type(z, codebook))
    return z_q, indices, loss, loss.clone()


def vector_quantize_backward(
    grad_z_q: Tensor | None,
    grad_commitment: Tensor,
    grad_codebook_loss: Tensor,
    z: Tensor,
    codebook: Tensor,
    indices: Tensor,
    need_grad_z: bool,
    need_grad_codebook: bool,
) -> tuple[Tensor, Tensor]:
    """The `vector_quantize_backward` op: grad_z and grad_codebook, empty where not needed."""
    check_search(z, codebook)
    check_stats(z, indices, codebook.shape[-2])
    scale = 2.0 / max(z.numel(), 1)
    difference = z - lookup(codebook, indices)
    grad_z, grad_codebook = z.new_empty(0), codebook.new_empty(0)
    if need_grad_z:
        gradient = scale * grad_commitment * difference
        grad_z = torch.empty_like(z).copy_(gradient if grad_z_q is None else grad_z_q + gradient)
    if need_grad_codebook:
        sums = sum_by_code(difference, indices, codebook)
        grad_codebook = (-scale * grad_codebook_loss * sums).to(codebook.dtype)
    return grad_z, grad_codebook


def codebook_stats(z: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """The `codebook_stats` op: counts (K,) int64 and sums (K, D)."""
    check_stats(z, indices, num_codes)
    flat = indices.reshape(-1)
    bad = ((flat < 0) | (flat >= num_codes)).nonzero().reshape(-1)
    if bad.numel() > 0:
        raise RuntimeError(
            f"indices must lie in [0, {num_codes}), got {int(flat[bad[0]])} at flat position "
            f"{int(bad[0])}"
        )
    counts = torch.bincount(flat, minlength=num_codes)
    sums = torch.zeros(num_codes, z.shape[-1], dtype=wide_type(z), device=z.device)
    sums.index_add_(0, flat, z.reshape(-1, z.shape[-1]).to(sums.dtype))
    return counts, sums.to(accumulation_type(z))


def lookup(codebook: Tensor, indices: Tensor) -> Tensor:
    """The codes (..., N, D) that indices (..., N) name in codebook (K, D) or (..., K, D)."""
    if codebook.dim() == 2:
        return codebook[indices]
    return torch.take_along_dim(codebook, indices.unsqueeze(-1), dim=-2)


def sum_by_code(rows: Tensor, indices: Tensor, codebook: Tensor) -> Tensor:
    """Sums rows (..., N, D) by their indices (..., N) into the shape of the codebook."""
    num_codes, dim = codebook.shape[-2:]
    flat = indices
    if codebook.dim() > 2:
        # One codebook after the other, as if they were a single one.
        flat = indices.flatten(0, -2)
        flat = flat + num_codes * torch.arange(len(flat), device=indices.device)[:, None]
    # Of the rows: under vmap they are many, and so must be the sums.
    sums = rows.new_zeros(codebook.numel() // dim, dim, dtype=wide_type(rows))
    sums.index_add_(0, flat.reshape(-1), rows.reshape(-1, dim).to(sums.dtype))
    return sums.reshape(codebook.shape)


def _search(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and distances in the wide type."""
    indices = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    distances = torch.empty(z.shape[:-1], dtype=wide_type(z), device=z.device)
    for head in itertools.product(*map(range, codebook.shape[:-2])):
        rows = z[head]  # all of z where there is one codebook
        index, distance = _search_one(rows.reshape(-1, rows.shape[-1]), codebook[head])
        indices[head] = index.reshape(rows.shape[:-1])
        distances[head] = distance.reshape(rows.shape[:-1])
    return indices, distances


def _search_one(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (N,) and distances (N,) for z (N, D) and one codebook (K, D)."""
    codes = codebook.to(wide_type(z))
    indices = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    distances = torch.zeros(z.shape[0], dtype=codes.dtype, device=z.device)
    block = max(1, BLOCK_ELEMENTS // codes.shape[0])
    for start in range(0, z.shape[0], block):
        rows = z[start : start + block].to(codes.dtype)
        distance = torch.zeros(rows.shape[0], codes.shape[0], dtype=codes.dtype, device=z.device)
        for d in range(codes.shape[1]):
            difference = rows[:, d, None] - codes[:, d]
            distance.addcmul_(difference, difference)
        undefined = distance.isnan()
        best, index = distance.masked_fill(undefined, torch.inf).min(dim=1)
        # Where nothing is finite: the first code that is not NaN, or the first of all.
        index = torch.where(best.isinf(), undefined.to(torch.uint8).argmin(dim=1), index)
        not_finite = ~rows.isfinite().all(dim=1)
        index = index.masked_fill(not_finite, 0)
        indices[start : start + block] = index
        distances[start : start + block] = distance.gather(1, index[:, None])[:, 0].masked_fill(
            not_finite, torch.nan
        )
    return indices, distances
