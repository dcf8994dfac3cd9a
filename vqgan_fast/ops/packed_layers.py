"""The weights of all layers of a transformer, stacked for `decode_layers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .packed_weight import PackedWeight, pack_linear

# What is packed of a block.
PARTS = ("ln1", "ln2", "attn.query", "attn.key", "attn.value", "attn.proj", "mlp.0", "mlp.2")


class StackedLinear(NamedTuple):
    """One linear layer of each of the L transformer layers.

    Attributes:
        weight: (L, ceil(N / 32), K, 32), packed as :class:`PackedWeight` says.
        scales: (L, N) float32 for int8, else None.
        bias: (L, N) float32.
    """

    weight: Tensor
    scales: Tensor | None
    bias: Tensor

    def layer(self, index: int) -> PackedWeight:
        """The weight of one of the L layers, as `packed_linear` takes it; views, no copies."""
        scales = None if self.scales is None else self.scales[index]
        return PackedWeight(self.weight[index], scales, self.bias.shape[-1])


class StackedNorm(NamedTuple):
    """One LayerNorm of each layer: weight and bias, (L, C) float32."""

    weight: Tensor
    bias: Tensor


class PackedLayers(NamedTuple):
    """All layers of a pre-LN transformer of width C, as :func:`pack_layers` makes them.

    Attributes:
        ln1, ln2: before the attention and before the perceptron.
        qkv: (3 C, C), queries above keys above values.
        proj: (C, C), behind the attention.
        fc, out: (4 C, C) and (C, 4 C), the perceptron around its GELU.
        eps: of both LayerNorms.
    """

    ln1: StackedNorm
    qkv: StackedLinear
    proj: StackedLinear
    ln2: StackedNorm
    fc: StackedLinear
    out: StackedLinear
    eps: float

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """As the op takes them: 12 weights and biases in the order above, and scales or nothing."""
        parts = (self.ln1, self.qkv, self.proj, self.ln2, self.fc, self.out)
        weights = [tensor for part in parts for tensor in (part.weight, part.bias)]
        linears = (self.qkv, self.proj, self.fc, self.out)
        return weights, [part.scales for part in linears if part.scales is not None]


def pack_layers(blocks: Iterable[nn.Module], dtype: str = "float32") -> PackedLayers:
    """Packs the blocks of a GPT for :func:`vqgan_fast.ops.decode_layers`.

    Args:
        blocks: modules with the reference's names: ln1, ln2, attn.query, attn.key, attn.value,
            attn.proj, mlp[0] and mlp[2], all with biases, on one device.
        dtype: of the linear layers' weights: "float32", "bfloat16" or "int8", see
            :func:`vqgan_fast.ops.pack_linear`. Biases and LayerNorms stay float32.

    Raises:
        TypeError: blocks are no modules with those names.
        ValueError: no blocks; blocks that differ in size; what `pack_linear` raises.
    """
    if not isinstance(blocks, Iterable):
        raise TypeError(f"blocks must be the layers of a GPT, got {type(blocks).__name__}")
    blocks = list(blocks)
    if not blocks:
        raise ValueError("blocks must hold at least one layer, got none")
    for block in blocks:
        _check_block(block)
    eps = blocks[0].ln1.eps
    if any(norm.eps != eps for block in blocks for norm in (block.ln1, block.ln2)):
        raise ValueError(f"blocks must have one eps in all LayerNorms, got others than {eps}")

    def qkv(block: nn.Module) -> tuple[Tensor, Tensor]:
        parts = (block.attn.query, block.attn.key, block.attn.value)
        return torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])

    return PackedLayers(
        ln1=_norms([block.ln1 for block in blocks]),
        qkv=_linears((qkv(block) for block in blocks), dtype),
        proj=_linears(((b.attn.proj.weight, b.attn.proj.bias) for b in blocks), dtype),
        ln2=_norms([block.ln2 for block in blocks]),
        fc=_linears(((b.mlp[0].weight, b.mlp[0].bias) for b in blocks), dtype),
        out=_linears(((b.mlp[2].weight, b.mlp[2].bias) for b in blocks), dtype),
        eps=eps,
    )


def check_packed_layers(layers: object) -> None:
    """TypeError if it is something else, such as a transformer's blocks."""
    if not isinstance(layers, PackedLayers):
        raise TypeError(
            f"layers must be PackedLayers, as pack_layers makes them, got {type(layers).__name__}"
        )


def _check_block(block: object) -> None:
    """TypeError unless a layer has all the parts that are packed."""
    for name in PARTS:
        try:
            part = block.get_submodule(name)
        except AttributeError:
            part = None
        if not isinstance(getattr(part, "bias", None), Tensor):
            raise TypeError(
                f"blocks must have {name} with a weight and a bias, as the layers of a GPT have, "
                f"got {type(block).__name__}"
            )


def _norms(norms: list[nn.Module]) -> StackedNorm:
    return StackedNorm(
        torch.stack([norm.weight.detach().float() for norm in norms]),
        torch.stack([norm.bias.detach().float() for norm in norms]),
    )


def _linears(parameters: Iterable[tuple[Tensor, Tensor]], dtype: str) -> StackedLinear:
    pairs = [(pack_linear(weight, dtype), bias.detach().float()) for weight, bias in parameters]
    if any(packed.weight.shape != pairs[0][0].weight.shape for packed, _ in pairs):
        raise ValueError("blocks must all have the same size, got weights of different shapes")
    scales = [packed.scales for packed, _ in pairs if packed.scales is not None]
    return StackedLinear(
        torch.stack([packed.weight for packed, _ in pairs]),
        torch.stack(scales) if scales else None,
        torch.stack([bias for _, bias in pairs]),
    )
