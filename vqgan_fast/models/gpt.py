"""The second stage's transformer: a GPT over codes (Esser et al. 2021, Section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.checks import check_indices, check_integer, check_number, check_tensor
from .kv_cache import KVCache
from .orderings import ROW_MAJOR, check_ordering
from .pretrained import Pretrained


class CausalSelfAttention(nn.Module):
    """Multi-head attention to the tokens so far; (B, T, n_embd) -> (B, T, n_embd)."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        n_unmasked: int,
        attn_pdrop: float,
        resid_pdrop: float,
    ) -> None:
        super().__init__()
        self.key = nn.Linear(n_embd, n_embd)
        self.query = nn.Linear(n_embd, n_embd)
        self.value = nn.Linear(n_embd, n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.resid_drop = nn.Dropout(resid_pdrop)
        self.attn_pdrop = attn_pdrop
        self.n_head = n_head
        # One for each layer because the reference's checkpoints hold one for each layer.
        mask = torch.ones(block_size, block_size).tril()
        mask[:n_unmasked, :n_unmasked] = 1
        self.register_buffer("mask", mask[None, None])

    def forward(
        self, x: Tensor, mask: Tensor | None, is_causal: bool, cache: KVCache | None, layer: int
    ) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        if cache is not None:
            k, v = cache.append(layer, k, v)
        dropout = self.attn_pdrop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, is_causal=is_causal)
        return self.resid_drop(self.proj(y.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and added to its input."""

    def __init__(self, n_embd: int, resid_pdrop: float, attn: nn.Module) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(n_embd)
        self.ln2 = nn.LayerNorm(n_embd)
        self.attn = attn
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(resid_pdrop),
        )

    def forward(self, x: Tensor, *attention: Any) -> Tensor:
        """`attention`: what the attention's forward takes behind x."""
        x = x + self.attn(self.ln1(x), *attention)
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module, Pretrained):
    """A decoder-only transformer with learned absolute positions; state-dict keys the reference's.

    Weights of Linear and Embedding start from N(0, 0.02), biases and positions from zero.

    Args:
        vocab_size: number of tokens: codes, and condition tokens in the same table.
        block_size: the longest sequence.
        n_layer, n_head, n_embd: layers, attention heads, width (a multiple of n_head).
        embd_pdrop, resid_pdrop, attn_pdrop: dropout after the embedding, on each branch, on
            attention weights.
        n_unmasked: the first tokens (a condition) that see each other in both directions.
        ordering: the order in which its sequences read the codes of a grid, see `orderings`. The
            GPT itself takes tokens as they come; training and sampling put them into this order.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int = 12,
        n_head: int = 8,
        n_embd: int = 256,
        embd_pdrop: float = 0.0,
        resid_pdrop: float = 0.0,
        attn_pdrop: float = 0.0,
        n_unmasked: int = 0,
        ordering: str = ROW_MAJOR,
    ) -> None:
        super().__init__()
        self.config = {
            "vocab_size": vocab_size,
            "block_size": block_size,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_embd": n_embd,
            "embd_pdrop": embd_pdrop,
            "resid_pdrop": resid_pdrop,
            "attn_pdrop": attn_pdrop,
            "n_unmasked": n_unmasked,
        }
        if ordering != ROW_MAJOR:  # a file without it is one that the reference's code can read
            self.config["ordering"] = ordering
        _check_config(self.config)
        check_ordering(ordering)
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_embd = n_embd
        self.n_unmasked = n_unmasked
        self.ordering = ordering
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.drop = nn.Dropout(embd_pdrop)
        self.blocks = nn.ModuleList(
            Block(
                n_embd,
                resid_pdrop,
                CausalSelfAttention(
                    n_embd, n_head, block_size, n_unmasked, attn_pdrop, resid_pdrop
                ),
            )
            for _ in range(n_layer)
        )
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.apply(initialize)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        logits_from: int = 0,
    ) -> Tensor:
        """Logits of the token that follows each token.

        Every way of sampling goes through here: a whole sequence at once, or with a cache first a
        prefill of several tokens and then one token (or some) at a time. Both give the same
        logits up to rounding.

        Args:
            tokens: (B, T) integers in [0, vocab_size). On the CPU their range is checked; on
                another device that would make the host wait, so callers check their inputs once.
            positions: (T,) or (B, T) rows of the position table, in [0, block_size); by default
                those behind the cache: cache.length ... cache.length + T - 1.
            cache: written in place behind its `length` tokens, all of which are attended.
            logits_from: first row of the head's output that is wanted; -1 gives the last only.

        Returns:
            Logits (B, T - logits_from, vocab_size), or (B, -logits_from, vocab_size) if negative.

        Raises:
            TypeError: tokens or positions are no tensor.
            ValueError: a token or position out of range, a sequence longer than block_size, a
                full cache, a cache that ends inside the unmasked prefix.
        """
        check_tensor("tokens", tokens)
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ValueError(f"tokens must be (B, T) with T >= 1, got {tuple(tokens.shape)}")
        check_indices("tokens", tokens, self.vocab_size)
        count = tokens.shape[1]
        start = 0 if cache is None else cache.length
        if start + count > self.block_size:
            raise ValueError(
                f"tokens must end within block_size = {self.block_size}, got {count} tokens "
                f"behind {start} cached ones"
            )
        if not -count <= logits_from < count:
            raise ValueError(f"logits_from must lie in [-{count}, {count}), got {logits_from}")
        if 0 < start < self.n_unmasked:
            raise ValueError(
                f"cache must be empty or hold the whole unmasked prefix of {self.n_unmasked} "
                f"tokens, whose tokens attend each other, got {start} cached tokens"
            )
        x = self.drop(self.tok_emb(tokens) + self._position_embeddings(positions, start, tokens))
        mask, is_causal = self._attention_pattern(start, count)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, is_causal, cache, layer)
        if cache is not None:
            cache.advance(count)
        return self.head(self.ln_f(x[:, logits_from:]))

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: only the weights of Linear layers decay."""
        return decay_groups(self, weight_decay)

    def _position_embeddings(self, positions: Tensor | None, start: int, tokens: Tensor) -> Tensor:
        """(1, T, n_embd), (T, n_embd) or (B, T, n_embd)."""
        batch, count = tokens.shape
        if positions is None:
            return self.pos_emb[:, start : start + count]
        check_tensor("positions", positions)
        if positions.shape not in ((count,), (batch, count)):
            raise ValueError(
                f"positions must be ({count},) or ({batch}, {count}), got {tuple(positions.shape)}"
            )
        check_indices("positions", positions, self.block_size)
        return F.embedding(positions, self.pos_emb[0])

    def _attention_pattern(self, start: int, count: int) -> tuple[Tensor | None, bool]:
        """Mask and causal flag for rows start ... start + count - 1 over start + count columns.

        The flag lets the fused kernels skip the masked half; it means a causal square, so rows
        behind a cache need the mask. A single row sees all columns and needs neither.
        """
        if count == 1:
            return None, False
        if start == 0 and self.n_unmasked == 0:
            return None, True
        end = start + count
        return self.blocks[0].attn.mask[:, :, start:end, :end] != 0, False


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: only the weights of Linear layers decay."""
    decay = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    decaying = {id(parameter) for parameter in decay}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in decaying]
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def initialize(module: nn.Module) -> None:
    """Weights of Linear and Embedding from N(0, 0.02), biases zero; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def check_dropout(config: dict[str, Any]) -> None:
    """ValueError unless the dropouts of a transformer's configuration lie in [0, 1)."""
    for name in ("embd_pdrop", "resid_pdrop", "attn_pdrop"):
        check_number(name, config[name])
        if not 0 <= config[name] < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {config[name]}")


def _check_config(config: dict[str, Any]) -> None:
    for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
        check_integer(name, config[name])
    if config["n_embd"] % config["n_head"]:
        raise ValueError(
            f"n_embd must be a multiple of n_head = {config['n_head']}, got {config['n_embd']}"
        )
    check_dropout(config)
    check_integer("n_unmasked", config["n_unmasked"], minimum=0)
    if config["n_unmasked"] > config["block_size"]:
        raise ValueError(
            f"n_unmasked must lie in [0, block_size = {config['block_size']}], "
            f"got {config['n_unmasked']}"
        )
