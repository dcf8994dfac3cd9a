"""Running a model that somebody may be training, and handing out what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode, and each of their parts back into its own mode at the end."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def ordinary_copy(tensor: Tensor) -> Tensor:
    """A copy that autograd accepts, of a tensor made in inference mode."""
    with torch.inference_mode(False):
        return tensor.clone()
