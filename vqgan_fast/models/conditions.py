"""What stands before the codes of an image in the transformer's sequence.

A condition turns its input into tokens of the transformer's vocabulary, which codes and all
conditions share without an offset (as in the reference): a token means what its place in the
sequence says. See `Condition`; a new one is a new class and its line in `condition_files.KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.checks import check_indices, check_integer, check_tensor

Tokens = Tensor | tuple[Tensor, ...]
"""A condition's tokens: (B, T) that stay, (B, h, w) that lie on the codes' grid and slide with a
window, or several of these one after the other."""


class Condition(nn.Module, ABC):
    """What stands before the codes.

    Attributes:
        num_tokens: tokens of each image that do not depend on the grid.
        num_grids: tokens of each cell of the codes' grid.
        vocab_size: the smallest vocabulary that has all of them.
        config: a JSON-able dict with `name` and the constructor's arguments.
    """

    num_tokens = 0
    num_grids = 0
    vocab_size: int
    config: dict[str, Any]

    @abstractmethod
    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Any = None
    ) -> Tokens:
        """int64 tokens on the device; a ValueError if the input is not what they are made of."""

    def length(self, cells: int) -> int:
        """How many tokens stand before a grid of so many codes."""
        return self.num_tokens + self.num_grids * cells


def token_sequence(tokens: Tokens) -> Tensor:
    """(B, T) int64: the tokens of a condition in the order in which they stand."""
    parts = tokens if isinstance(tokens, tuple) else (tokens,)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def map_tokens(function: Any, *tokens: Tokens) -> Tokens:
    """What a function of tensors makes of each part of a condition's tokens."""
    if isinstance(tokens[0], tuple):
        return tuple(function(*parts) for parts in zip(*tokens, strict=True))
    return function(*tokens)


def filled_tokens(tokens: Tokens, token: int) -> Tokens:
    """Tokens like a condition's, the same one in each place."""
    return map_tokens(lambda part: torch.full_like(part, token), tokens)


class SOSCondition(Condition):
    """No condition: one constant start-of-sequence token."""

    num_tokens = 1

    def __init__(self, token: int = 0) -> None:
        super().__init__()
        check_integer("token", token, minimum=0)
        self.token = token
        self.vocab_size = token + 1
        self.config = {"name": "sos", "token": token}

    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Tensor | None = None
    ) -> Tensor:
        """(batch_size, 1) int64; ValueError if there is an input to condition on."""
        if condition_input is not None:
            raise ValueError("condition_input must be None for a model without a condition")
        return torch.full((batch_size, 1), self.token, dtype=torch.int64, device=device)


class LabelCondition(Condition):
    """The class of each image: one token, the class's number.

    Args:
        n_classes: labels are 0 ... n_classes - 1.
        classes: their names, for whoever asks for one.

    Raises:
        ValueError: n_classes is no positive integer, or not the number of names.
    """

    num_tokens = 1

    def __init__(self, n_classes: int, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        check_integer("n_classes", n_classes)
        if classes is not None and len(classes) != n_classes:
            raise ValueError(f"classes must be {n_classes} names, got {len(classes)}")
        self.n_classes = self.vocab_size = n_classes
        self.classes = None if classes is None else list(classes)
        self.config = {"name": "label", "n_classes": n_classes}
        if classes is not None:
            self.config["classes"] = self.classes

    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Tensor | None = None
    ) -> Tensor:
        """(batch_size, 1) int64 of labels (batch_size,) in [0, n_classes).

        Raises:
            TypeError: no tensor.
            ValueError: no labels, another shape or dtype; on the CPU, one out of range.
        """
        if condition_input is None:
            raise ValueError("condition_input must be the labels of the images, got None")
        check_tensor("condition_input", condition_input)
        if condition_input.shape != (batch_size,) or condition_input.dtype != torch.int64:
            raise ValueError(
                f"condition_input must be labels ({batch_size},) int64, got "
                f"{tuple(condition_input.shape)} {condition_input.dtype}"
            )
        check_indices("condition_input", condition_input, self.n_classes)
        return condition_input[:, None].to(device)


class CombinedCondition(Condition):
    """Several conditions, the tokens of one behind those of another.

    Args:
        parts: at least one, each with an input of its own.

    Raises:
        ValueError: there are no parts.
    """

    def __init__(self, parts: Sequence[Condition]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts must hold at least one condition, got none")
        self.parts = nn.ModuleList(parts)
        self.num_tokens = sum(part.num_tokens for part in parts)
        self.num_grids = sum(part.num_grids for part in parts)
        self.vocab_size = max(part.vocab_size for part in parts)
        self.config = {"name": "combined", "parts": [part.config for part in parts]}

    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Any = None
    ) -> Tokens:
        """The tokens of each part, in a tuple, of a sequence with the input of each.

        Raises:
            ValueError: not one input for each part; what a part raises.
        """
        several = isinstance(condition_input, Sequence)
        if not several or len(condition_input) != len(self.parts):
            given = len(condition_input) if several else type(condition_input).__name__
            raise ValueError(
                f"condition_input must hold an input for each of {len(self.parts)} conditions, "
                f"got {given}"
            )
        return tuple(
            part(batch_size, device, own)
            for part, own in zip(self.parts, condition_input, strict=True)
        )
