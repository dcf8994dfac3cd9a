"""A training step of whole quantiser modules on one codebook: forward, loss, both gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqgan_fast import VectorQuantizer
from vqgan_fast.quantizers import IndexPropagationQuantizer

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


class DenseIndexPropagation(nn.Module):
    """IBQ's quantiser as its authors' code computes it, with N x K tensors."""

    def __init__(self, codebook_size: int, e_dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, e_dim)
        self.beta = beta

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        codebook = self.embedding.weight
        rows = z.movedim(1, -1)
        soft = (rows @ codebook.T).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        z_q = (hard - soft.detach() + soft) @ codebook
        chosen = hard @ codebook
        loss = (z_q - rows).square().mean() + (chosen.detach() - rows).square().mean()
        loss = loss + self.beta * (chosen - rows.detach()).square().mean()
        return z_q.movedim(-1, 1), loss


def index_propagation(codebook: Tensor) -> Step:
    quantizer = IndexPropagationQuantizer(*codebook.shape)
    return _step(quantizer, quantizer.embedding.weight, codebook)


def dense_index_propagation(codebook: Tensor) -> Step:
    quantizer = DenseIndexPropagation(*codebook.shape)
    return _step(quantizer, quantizer.embedding.weight, codebook)


# Not beside those above: these compute another thing, softmax over all codes.
SOFT_STEPS: dict[str, Callable[[Tensor], Step]] = {
    "IBQ": index_propagation,
    "dense IBQ": dense_index_propagation,
}


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
