"""Keys and values that a GPT has computed already, in storage allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..quantizers.checks import check_integer

if TYPE_CHECKING:
    from .gpt import GPT


class KVCache:
    """Static key and value storage for one batch of sequences of equal length.

    `GPT.forward(tokens, cache=cache)` writes the keys and values of `tokens` behind the
    `length` ones that are there and attends all of them; nothing is concatenated or reallocated.
    For inference only: the calls belong under `torch.no_grad()`.

    Args:
        gpt: the model whose layers, heads and block size the storage is made for.
        batch_size: number of sequences.
        max_length: tokens that fit; the model's block size by default.
        device: the model's by default.
        dtype: of keys and values as the model computes them; by default the dtype of its weights,
            or autocast's inside an autocast region.

    Memory: 2 * n_layer * batch_size * max_length * n_embd values.
    """

    def __init__(
        self,
        gpt: GPT,
        batch_size: int,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        max_length = gpt.block_size if max_length is None else max_length
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            check_integer(name, value)
        device = gpt.pos_emb.device if device is None else torch.device(device)
        if dtype is None:
            in_autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if in_autocast else gpt.pos_emb.dtype
        shape = (gpt.n_layer, batch_size, gpt.n_head, max_length, gpt.n_embd // gpt.n_head)
        self.k_cache = torch.zeros(shape, device=device, dtype=dtype)
        self.v_cache = torch.zeros(shape, device=device, dtype=dtype)
        self.batch_size = batch_size
        self.max_length = max_length
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values behind the first `length`.

        Args:
            layer: index of the layer.
            k, v: (batch_size, n_head, T, head_dim).

        Returns:
            Views (batch_size, n_head, length + T, head_dim) of all keys and all values. `length`
            itself moves with `advance`, once every layer has been written.

        Raises:
            ValueError: no room for T more; another batch size, dtype or shape of model; gradients
                asked for.
        """
        num_layers, _, n_head, _, head_dim = self.k_cache.shape
        if layer >= num_layers or (k.shape[1], k.shape[3]) != (n_head, head_dim):
            raise ValueError(
                f"cache was made for a model with {num_layers} layers of {n_head} x {head_dim} "
                f"heads, got layer {layer} with {k.shape[1]} x {k.shape[3]}"
            )
        end = self.length + k.shape[2]
        if end > self.max_length:
            raise ValueError(
                f"cache is full: it holds {self.length} of {self.max_length} tokens, "
                f"{k.shape[2]} more came"
            )
        if k.shape[0] != self.batch_size:
            raise ValueError(f"cache was made for batch size {self.batch_size}, got {k.shape[0]}")
        if k.dtype != self.k_cache.dtype:
            raise ValueError(f"cache holds {self.k_cache.dtype}, the model computes {k.dtype}")
        if torch.is_grad_enabled() and k.requires_grad:
            raise ValueError("cache is for inference: call the model under torch.no_grad()")
        self.k_cache[layer, :, :, self.length : end] = k
        self.v_cache[layer, :, :, self.length : end] = v
        return self.k_cache[layer, :, :, :end], self.v_cache[layer, :, :, :end]

    def advance(self, count: int) -> None:
        """Counts `count` tokens more as written."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forgets all tokens from `length` on, so that another continuation can be written.

        Raises:
            ValueError: length is negative, or more than there are.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length must lie in [0, {self.length}], got {length}")
        self.length = length
