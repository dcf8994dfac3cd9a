"""Latents and codebooks that a search gets wrong easily, without end and the same for a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Generator, Tensor

Data = tuple[Tensor, Tensor]
# A codebook is learned from patches at random places, in as many steps; so many distances a step.
LEARNING_STEPS, LEARNING_DISTANCES = 6, 1 << 20


def random(n: int, k: int, d: int, g: Generator) -> Data:
    """Gaussian, or with norms of many orders, or under an offset."""
    z, codebook = torch.randn(n, d, generator=g), torch.randn(k, d, generator=g)
    kind = torch.randint(3, (), generator=g).item()
    if kind == 1:
        z = z * 10 ** (4 * torch.rand(n, 1, generator=g) - 2)
        codebook = codebook * 10 ** (4 * torch.rand(k, 1, generator=g) - 2)
    elif kind == 2:
        by = 10 ** (4 * torch.rand(d, generator=g))
        z, codebook = z + by, codebook + by
    return z, codebook


def clustered(n: int, k: int, d: int, g: Generator) -> Data:
    """Codes and latents in clusters of about 16 codes, 128 or nearly all, from a tenth to a
    hundred-thousandth wide: more codes than a screen can keep apart, or hold."""
    width = 10 ** (-1 - 4 * torch.rand((), generator=g).item())
    members = (16, 128, 4096)[torch.randint(3, (), generator=g).item()]
    centres = torch.randn(max(1, k // members), d, generator=g)
    z, codebook = (
        centres[torch.randint(len(centres), (m,), generator=g)]
        + width * torch.randn(m, d, generator=g)
        for m in (n, k)
    )
    return z, codebook


def crowded(n: int, k: int, d: int, g: Generator) -> Data:
    """Codes in a few tight clusters, nearly all in one place, or with norms of many orders, and one
    in fifty anywhere; latents among them."""
    codebook = torch.randn(k, d, generator=g)
    width = 10 ** (-1 - 4 * torch.rand((), generator=g).item())
    kind = torch.randint(3, (), generator=g).item()
    if kind == 0:
        centres = torch.randn(2 + torch.randint(11, (), generator=g).item(), d, generator=g)
        codebook = centres[torch.randint(len(centres), (k,), generator=g)] + width * codebook
    elif kind == 1:
        codebook = torch.where(torch.rand(k, 1, generator=g) < 0.9, width * codebook, codebook)
    else:
        codebook = codebook * 10 ** (6 * torch.rand(k, 1, generator=g) - 3)
    codebook[::50] = torch.randn(len(codebook[::50]), d, generator=g)
    z = codebook[torch.randint(k, (n,), generator=g)] + width * torch.randn(n, d, generator=g)
    return z, codebook


def duplicated(n: int, k: int, d: int, g: Generator) -> Data:
    """Every code about four times; latents around codes, every eighth of them equal to one."""
    different = torch.randn(max(1, k // 4), d, generator=g)
    codebook = different[torch.randint(len(different), (k,), generator=g)]
    z = codebook[torch.randint(k, (n,), generator=g)] + torch.randn(n, d, generator=g)
    z[::8] = codebook[torch.randint(k, (len(z[::8]),), generator=g)]
    return z, codebook


def near_tied(n: int, k: int, d: int, g: Generator) -> Data:
    """Latents in the middle of two codes, up to rounding; codes one rounding apart."""
    codebook = torch.randn(k, d, generator=g)
    pairs = torch.randint(k, (2, n), generator=g)
    z = (codebook[pairs[0]] + codebook[pairs[1]]) / 2
    copies = k // 8
    codebook[:copies] = codebook[copies : 2 * copies] * (
        1 + 2.0**-23 * torch.randint(-1, 2, (copies, d), generator=g)
    )
    return z, codebook


def huge(n: int, k: int, d: int, g: Generator) -> Data:
    """Squares above fp32's range, or just within it."""
    scale = (1e18, 1e25, 3e37)[torch.randint(3, (), generator=g).item()]
    z, codebook = torch.randn(n, d, generator=g), torch.randn(k, d, generator=g)
    return scale * z.clamp(-8, 8), scale * codebook.clamp(-8, 8)


def tiny(n: int, k: int, d: int, g: Generator) -> Data:
    """Squares below fp32's range; subnormal numbers."""
    scale = (1e-20, 1e-30, 1e-38, 1e-42)[torch.randint(4, (), generator=g).item()]
    return scale * torch.randn(n, d, generator=g), scale * torch.randn(k, d, generator=g)


def trained(n: int, k: int, d: int, g: Generator) -> Data:
    """Patches of photographs in grey, some in another contrast, and codes learned from patches."""
    z = _patches(n, d, g)
    if torch.rand((), generator=g) < 0.5:
        z = z * (0.5 + torch.rand(n, 1, generator=g)) + 0.2 * torch.randn(n, 1, generator=g)
    return z, _learned(k, d).clone()


DATA: dict[str, Callable[[int, int, int, Generator], Data]] = {
    make.__name__: make
    for make in (random, clustered, crowded, duplicated, near_tied, huge, tiny, trained)
}


@cache
def _photographs() -> list[Tensor]:
    """Those inside scikit-image's wheel, grey, in [-1, 1]."""
    from skimage import color, data

    pictures = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    return [torch.from_numpy(2 * color.rgb2gray(picture) - 1).float() for picture in pictures]


def _patches(n: int, d: int, g: Generator) -> Tensor:
    """n patches of d values, as square as d allows."""
    height = next(h for h in range(int(d**0.5), 0, -1) if d % h == 0)
    pictures = _photographs()
    parts = []
    for i, picture in enumerate(pictures):
        windows = picture.unfold(0, height, 1).unfold(1, d // height, 1)
        count = n * (i + 1) // len(pictures) - n * i // len(pictures)
        at = [torch.randint(size, (count,), generator=g) for size in windows.shape[:2]]
        parts.append(windows[at[0], at[1]].reshape(count, d))
    return torch.cat(parts)[torch.randperm(n, generator=g)]


@cache
def _learned(k: int, d: int) -> Tensor:
    """A codebook after a few steps of k-means with moving averages; some codes stay unused."""
    g = Generator().manual_seed(k * 1000 + d)
    codebook = _patches(k, d, g) + 0.01 * torch.randn(k, d, generator=g)
    counts, sums = torch.ones(k), codebook.clone()
    for _ in range(LEARNING_STEPS):
        patches = _patches(max(1024, LEARNING_DISTANCES // k), d, g)
        half_norms = 0.5 * codebook.square().sum(1)
        indices = torch.cat(
            [
                torch.addmm(half_norms, part, codebook.t(), alpha=-1).argmin(1)
                for part in patches.split(1024)
            ]
        )
        counts.mul_(0.8).add_(torch.bincount(indices, minlength=k), alpha=0.2)
        sums.mul_(0.8).index_add_(0, indices, patches, alpha=0.2)
        codebook = sums / counts.clamp_min(1e-5)[:, None]
    return codebook
