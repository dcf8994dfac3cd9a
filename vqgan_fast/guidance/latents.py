"""The latents that `guide` moves: where they start, how far they go, how they become codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops
from ..models import VQGAN
from ..quantizers import (
    EMAVectorQuantizer,
    GumbelQuantizer,
    IndexPropagationQuantizer,
    Quantizer,
    SimVQ,
    VectorQuantizer,
)

THROUGH = ("latents", "codes")


def quantisation(
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


def starting_latents(vqgan: VQGAN, start: Tensor) -> Tensor:
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


def step_size(vqgan: VQGAN, z: Tensor) -> float:
    """What a learning rate of 1 means: the deviation of a code's entries, or of the latents'."""
    values = vqgan.quantize.codebook if isinstance(vqgan.quantize, Quantizer) else z
    return float(values.detach().float().std())


def latent_bounds(vqgan: VQGAN) -> tuple[Tensor, Tensor] | None:
    """The smallest and largest entries of the codes, (D, 1, 1) each; None where it is not the
    nearest code that counts.

    Beyond the outermost codes a latent changes nothing but how long its way back is.
    """
    if not _takes_nearest(vqgan.quantize):
        return None
    lowest, highest = vqgan.quantize.codebook.detach().aminmax(dim=0)
    return lowest[:, None, None], highest[:, None, None]
