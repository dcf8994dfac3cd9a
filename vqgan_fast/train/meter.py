"""Means of losses over the steps between two log entries, kept on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .distributed import Ranks


class Meter:
    """Sums up named scalars; nothing is copied to the host before `means`.

    Args:
        names: of the scalars; each call of `add` gives all or some of them.
        device: where they are.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self._rows: dict[tuple[str, ...], Tensor] = {}
        self.totals = torch.zeros(2, len(self.names), device=device)  # sums, counts

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count one more value of each scalar that is given."""
        names = tuple(values)
        if names not in self._rows:  # made once: each time would be a copy from host to device
            rows = [self.names.index(name) for name in names]
            self._rows[names] = torch.tensor(rows, device=self.totals.device)
        new = torch.stack([value.to(self.totals.dtype) for value in values.values()])
        new = torch.stack([new, torch.ones_like(new)])
        self.totals.index_add_(1, self._rows[names], new)

    def means(self, ranks: Ranks) -> dict[str, float]:
        """The mean of every scalar that was given, over steps and ranks. Waits for the device."""
        sums, counts = ranks.sum(self.totals.clone()).tolist()
        return {
            name: total / count
            for name, total, count in zip(self.names, sums, counts, strict=True)
            if count > 0
        }

    def reset(self) -> None:
        """Start the next interval."""
        self.totals.zero_()
