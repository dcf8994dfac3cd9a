"""A transformer's weights as the decode kernels stream them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..models import GPT, PixelSNAIL, WindowGPT
from ..ops import PackedLayers, PackedWeight


class PackedTransformer:
    """A copy of a GPT's or WindowGPT's weights for sampling; later changes do not enter.

    :func:`pack` makes one. `sample_codes` and `sample` take it in the transformer's place, so that
    many calls share one copy.

    Attributes:
        model: the transformer's class and sizes (its weights are not read again).
        weights: what the linear layers' weights are held in.
        cache_dtype: of keys and values.
        tok_emb: (vocab_size, C) float32, with one row more, the row token, for a WindowGPT.
        pos_emb: (block_size, C) float32, of a GPT.
        cond_emb: (vocab_size, C) float32, what a condition token adds to a WindowGPT's input.
    """

    def __init__(self, model: GPT | WindowGPT, weights: str) -> None:
        self.model = model
        self.weights = weights
        self.cache_dtype = torch.float32 if weights == "float32" else torch.bfloat16
        self.layers: PackedLayers = ops.pack_layers(model.blocks, weights)
        self.head: PackedWeight = ops.pack_linear(model.head.weight, weights)
        self.ln_f = (_copy(model.ln_f.weight), _copy(model.ln_f.bias), model.ln_f.eps)
        self.tok_emb = _copy(model.tok_emb.weight)
        self.pos_emb = self.cond_emb = None
        if self.is_native:
            # By our own op: autocast and threads change the bits of torch's product.
            cond_proj = ops.pack_linear(model.cond_proj.weight)
            self.cond_emb = ops.packed_linear(self.tok_emb, cond_proj)
            self.tok_emb = torch.cat([self.tok_emb, _copy(model.row_token)[None]])
        else:
            self.pos_emb = _copy(model.pos_emb[0])

    @property
    def is_native(self) -> bool:
        """Whether this is a WindowGPT."""
        return isinstance(self.model, WindowGPT)

    @property
    def device(self) -> torch.device:
        return self.tok_emb.device

    @property
    def head_dim(self) -> int:
        return self.model.n_embd // self.model.n_head

    def new_cache(self, num_slots: int, *shape: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (n_layer, num_slots, n_head, *shape, head_dim)."""
        sizes = (self.model.n_layer, num_slots, self.model.n_head, *shape, self.head_dim)
        k_cache = torch.zeros(sizes, dtype=self.cache_dtype, device=self.device)
        return k_cache, torch.zeros_like(k_cache)

    def token_bytes(self) -> int:
        """What one token takes in the cache."""
        return 2 * self.model.n_layer * self.model.n_embd * self.cache_dtype.itemsize

    def logits(self, x: Tensor) -> Tensor:
        """(R, vocab_size) of the last layer's outputs (R, C)."""
        weight, bias, eps = self.ln_f
        return ops.packed_linear(ops.layer_norm(x, weight, bias, eps), self.head)


class WholeGridModel:
    """A PixelSNAIL in the place of a packed transformer: the module itself, as it is.

    Attributes:
        model: the module.
    """

    is_native = True
    weights = None

    def __init__(self, model: PixelSNAIL) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    def logits(self, x: Tensor) -> Tensor:
        """(R, vocab_size) of features (R, C)."""
        return self.model.head(x).float()


Packed = PackedTransformer | WholeGridModel


def pack(transformer: GPT | WindowGPT | PixelSNAIL | Packed, weights: str | None = None) -> Packed:
    """Copies a transformer's weights into the form that sampling streams.

    Args:
        transformer: a GPT or WindowGPT; a packed one is returned as it is. A PixelSNAIL is not
            copied: it is sampled from as it stands, `weights` must be None.
        weights: "float32"; "bfloat16", half the memory traffic of a step; "int8", a quarter, each
            row of a matrix with a scale of its own. Sums are in fp32 in any case. With the latter
            two, keys and values are held in bfloat16. None is "bfloat16" for a transformer in that
            dtype, else "float32" (for fp64 and fp16 as well).

    Raises:
        ValueError: another transformer, heads whose width is no multiple of 8, weights that are not
            finite, other `weights`, or a packed one of other `weights`.
    """
    if isinstance(transformer, Packed):
        if weights not in (None, transformer.weights):
            raise ValueError(
                f"weights must be None or {transformer.weights!r}, as the transformer was packed, "
                f"got {weights!r}"
            )
        return transformer
    if not isinstance(transformer, GPT | WindowGPT | PixelSNAIL):
        raise ValueError(
            f"gpt must be a GPT, a WindowGPT, a PixelSNAIL or what pack() made of one, got "
            f"{type(transformer).__name__}"
        )
    for name, parameter in transformer.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"gpt must have finite weights, but {name} holds NaN or infinity: its training "
                f"diverged; go back to an earlier checkpoint"
            )
    if isinstance(transformer, PixelSNAIL):
        if weights is not None:
            raise ValueError(f"weights must be None for a PixelSNAIL, got {weights!r}")
        return WholeGridModel(transformer)
    head_dim = transformer.n_embd // transformer.n_head
    if head_dim % 8:
        raise ValueError(
            f"gpt must have a head width n_embd / n_head that is a multiple of 8, got {head_dim}"
        )
    if weights is None:
        is_bfloat16 = transformer.head.weight.dtype == torch.bfloat16
        weights = "bfloat16" if is_bfloat16 else "float32"
    if weights not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"weights must be float32, bfloat16, int8 or None, got {weights!r}")
    return PackedTransformer(transformer, weights)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32, copy=True)
