"""A training step of whole quantiser modules on one codebook: forward, loss, both gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from vqgan_fast import VectorQuantizer

# Latents (B, D, H, W) to z_q and the gradients of the latents and, where it has one, the codebook.
Step = Callable[[Tensor], list[Tensor]]


def ours(codebook: Tensor) -> Step:
    quantizer = VectorQuantizer(*codebook.shape, legacy=True)
    return _step(quantizer, quantizer.embedding.weight, codebook)


def reference(codebook: Tensor) -> Step:
    from taming.modules.vqvae.quantize import VectorQuantizer2

    quantizer = VectorQuantizer2(*codebook.shape, beta=0.25, legacy=True)
    return _step(quantizer, quantizer.embedding.weight, codebook)


def vq_pytorch(codebook: Tensor) -> Step:
    """Its codebook learned by gradients, as in the others."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(
        dim=codebook.shape[1],
        codebook_size=codebook.shape[0],
        accept_image_fmap=True,
        learnable_codebook=True,
        ema_update=False,
    )
    return _step(quantizer, quantizer._codebook.embed, codebook)


def vq_pytorch_ema(codebook: Tensor) -> Step:
    """Its default: moving averages instead of a gradient for the codebook."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(
        dim=codebook.shape[1], codebook_size=codebook.shape[0], accept_image_fmap=True
    )
    return _step(quantizer, quantizer._codebook.embed, codebook)


def drop_in_ema(codebook: Tensor) -> Step:
    """Our stand-in for it, with the same default."""
    from vqgan_fast.compat.vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(
        dim=codebook.shape[1], codebook_size=codebook.shape[0], accept_image_fmap=True
    )
    return _step(quantizer, quantizer._codebook.embed, codebook)


STEPS: dict[str, Callable[[Tensor], Step]] = {"ours": ours, "ours for vq-pytorch EMA": drop_in_ema}
if importlib.util.find_spec("taming"):
    STEPS["VectorQuantizer2"] = reference
if importlib.util.find_spec("vector_quantize_pytorch"):
    STEPS |= {"vq-pytorch": vq_pytorch, "vq-pytorch EMA": vq_pytorch_ema}


def _step(quantizer: torch.nn.Module, weight: Tensor, codebook: Tensor) -> Step:
    """Each module returns z_q first; the loss is its second or its last result."""
    weight.data.copy_(codebook.view(weight.shape))
    quantizer.train()

    def step(latents: Tensor) -> list[Tensor]:
        results = quantizer(latents)
        loss = next(r for r in results[1:] if isinstance(r, Tensor) and r.requires_grad)
        learned = [latents, weight] if weight.requires_grad else [latents]
        return [results[0], *torch.autograd.grad(loss.sum() + results[0].mean(), learned)]

    return step
