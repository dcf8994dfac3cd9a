"""Latents and codebooks on which a nearest-code search goes wrong easily, and the oracle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import vqgan_fast.ops  # loads the op library

DIMS = (1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33, 64, 100, 256)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def oracle(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and fp64 distances for z (..., D) and codebook (K, D), by the scalar definition."""
    assert vqgan_fast.ops is not None
    rows = z.detach().reshape(-1, z.shape[-1])
    indices, distances = torch.ops.vqgan_fast._nearest_code_oracle(rows, codebook.detach())
    return indices.reshape(z.shape[:-1]), distances.reshape(z.shape[:-1])


def assert_is_oracle(z: Tensor, codebook: Tensor, found: tuple[Tensor, Tensor]) -> None:
    """Equal indices, and the oracle's distances rounded to the type that the op returns."""
    indices, distances = oracle(z, codebook)
    wrong = (found[0] != indices).nonzero()
    assert len(wrong) == 0, f"{len(wrong)} of {indices.numel()} indices differ, first {wrong[0]}"
    fp64 = torch.float64 in (z.dtype, codebook.dtype)
    assert found[1].dtype == (torch.float64 if fp64 else torch.float32)
    assert torch.equal(found[1].nan_to_num(-1), distances.to(found[1].dtype).nan_to_num(-1))


def gaussian(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d), torch.randn(k, d)


def duplicates(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Every code a few times; the first of them must win."""
    z, codebook = gaussian(n, max(1, k // 3), d)
    return z, codebook.repeat(4, 1)[torch.randperm(4 * len(codebook))[:k]]


def near_ties(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Latents on the middle between two codes, up to rounding."""
    _, codebook = gaussian(n, k, d)
    pairs = torch.randint(k, (2, n))
    return (codebook[pairs[0]] + codebook[pairs[1]]) / 2, codebook


def clustered(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Codes in tight clusters, one ten-thousandth wide."""
    centres = torch.randn(max(1, k // 16), d)
    codebook = centres[torch.randint(len(centres), (k,))] + 1e-4 * torch.randn(k, d)
    return centres[torch.randint(len(centres), (n,))] + 1e-4 * torch.randn(n, d), codebook


def collapsed(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """All codes within a few units in the last place of one: no fp32 screen can tell them apart."""
    centre = torch.randn(d)
    return torch.randn(n, d), centre * (1 + 3e-7 * torch.randn(k, d))


def offset(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    z, codebook = gaussian(n, k, d)
    return z + 1000, codebook + 1000


def vqgan_init(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """The codebook as VQGAN initialises it, far smaller than the latents."""
    return torch.randn(n, d), torch.empty(k, d).uniform_(-1 / k, 1 / k)


def tiny(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Squares below the smallest fp32 number."""
    z, codebook = gaussian(n, k, d)
    return 1e-25 * z, 1e-25 * codebook


def subnormal(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    z, codebook = gaussian(n, k, d)
    return 1e-42 * z, 1e-42 * codebook


def huge(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Squares above the largest fp32 number."""
    z, codebook = gaussian(n, k, d)
    return 1e25 * z, 1e25 * codebook


def far_latents(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Latents so far away that even the fp64 sums of the oracle tie and swap."""
    z, codebook = gaussian(n, k, d)
    return z * torch.logspace(6, 18, n)[:, None], codebook


def mixed_norms(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    z, codebook = gaussian(n, k, d)
    return z * 10 ** torch.empty(n, 1).uniform_(-10, 10), codebook * 10 ** torch.empty(
        k, 1
    ).uniform_(-10, 10)


def outlier(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    z, codebook = gaussian(n, k, d)
    codebook[k // 2] *= 1e6
    return z, codebook


def grid(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Small integers against half-integers: many exact ties."""
    return torch.randint(-4, 5, (n, d)) / 2, torch.randint(-2, 3, (k, d)).float()


def zeros(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d), torch.zeros(k, d)


def not_finite(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Some rows and codes with a NaN or an infinity, the first and last among them."""
    z, codebook = gaussian(n, k, d)
    for rows in (z, codebook):
        count = len(rows)
        for i, value in enumerate((torch.nan, torch.inf, -torch.inf)):
            rows[i * count // 3, torch.randint(d, ())] = value
        rows[count - 1, d - 1] = torch.nan
    return z, codebook


def no_finite_code(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    z, codebook = gaussian(n, k, d)
    codebook[:, 0] = torch.inf
    codebook[: (k + 1) // 2, 0] = torch.nan
    return z, codebook


def all_nan(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d), torch.full((k, d), torch.nan)


CASES: dict[str, Callable[[int, int, int], tuple[Tensor, Tensor]]] = {
    case.__name__: case
    for case in (
        gaussian,
        duplicates,
        near_ties,
        clustered,
        collapsed,
        offset,
        vqgan_init,
        tiny,
        subnormal,
        huge,
        far_latents,
        mixed_norms,
        outlier,
        grid,
        zeros,
        not_finite,
        no_finite_code,
        all_nan,
    )
}
