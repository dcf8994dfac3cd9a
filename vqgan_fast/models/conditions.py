"""What stands before the codes of an image in the transformer's sequence.

A condition is an nn.Module that turns its input into tokens of the transformer's vocabulary:

- `num_tokens`: how many tokens it gives for each image;
- `vocab_size`: the smallest vocabulary that has all of them;
- `config`: a JSON-able dict with its `name` in CONDITIONS and its constructor's arguments;
- `forward(batch_size, device, condition_input=None)` -> (batch_size, num_tokens) int64.

A new condition is a new class here and its line in CONDITIONS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.checks import check_indices, check_integer


class SOSCondition(nn.Module):
    """No condition: one constant start-of-sequence token."""

    num_tokens = 1

    def __init__(self, token: int = 0) -> None:
        super().__init__()
        check_integer("token", token, minimum=0)
        self.token = token
        self.config = {"name": "sos", "token": token}

    @property
    def vocab_size(self) -> int:
        return self.token + 1

    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Tensor | None = None
    ) -> Tensor:
        """(batch_size, 1) int64; ValueError if there is an input to condition on."""
        if condition_input is not None:
            raise ValueError("condition_input must be None for a model without a condition")
        return torch.full((batch_size, 1), self.token, dtype=torch.int64, device=device)


class LabelCondition(nn.Module):
    """The class of each image: one token, the class's number."""

    num_tokens = 1

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        check_integer("n_classes", n_classes)
        self.n_classes = n_classes
        self.config = {"name": "label", "n_classes": n_classes}

    @property
    def vocab_size(self) -> int:
        return self.n_classes

    def forward(
        self, batch_size: int, device: torch.device | str, condition_input: Tensor | None = None
    ) -> Tensor:
        """(batch_size, 1) int64 of labels (batch_size,) in [0, n_classes).

        Raises:
            ValueError: no labels, another shape or dtype; on the CPU, one out of range.
        """
        if condition_input is None:
            raise ValueError("condition_input must be the labels of the images, got None")
        if condition_input.shape != (batch_size,) or condition_input.dtype != torch.int64:
            raise ValueError(
                f"condition_input must be labels ({batch_size},) int64, got "
                f"{tuple(condition_input.shape)} {condition_input.dtype}"
            )
        check_indices("condition_input", condition_input, self.n_classes)
        return condition_input[:, None].to(device)


CONDITIONS: dict[str, type[nn.Module]] = {"sos": SOSCondition, "label": LabelCondition}


def build_condition(config: Mapping[str, Any]) -> nn.Module:
    """The condition that a `config` describes; ValueError for a name that is not in CONDITIONS."""
    if not isinstance(config, Mapping):
        raise ValueError(f"condition must be a mapping with a name, got {config!r}")
    arguments = dict(config)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in CONDITIONS:
        raise ValueError(f"condition must be one of {sorted(CONDITIONS)}, got {name!r}")
    return CONDITIONS[name](**arguments)
