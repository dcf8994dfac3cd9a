"""What is computed as its inputs are, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which autocast does not reach what is computed on a device."""
    if not torch.amp.is_autocast_available(device.type):  # meta, say
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
