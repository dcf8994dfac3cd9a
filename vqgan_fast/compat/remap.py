"""The reference's remapping of indices: a vocabulary of only the codes that a data set uses."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class RemapsIndices(nn.Module):
    """Base of quantisers that take `remap`: adds the buffer `used` and translates both ways.

    Without `remap` there is no buffer, and indices stay as they are.
    """

    remap: Any
    re_embed: int
    unknown_index: str | int

    def set_remap(
        self, remap: str | os.PathLike[str] | None, unknown_index: str | int, num_codes: int
    ) -> None:
        """Reads the file and registers `used`.

        Args:
            remap: a .npy file with a list of codes, whose places are the new indices.
            unknown_index: the new index of a code that is not in the list: "random" draws one,
                "extra" is one behind the last, an integer is itself.
            num_codes: K.

        Raises:
            ValueError: the list is not one of 1 to K integers in [0, K), or unknown_index is
                neither of the two words nor an index of the new vocabulary.
        """
        self.remap = remap
        self.re_embed = num_codes
        if remap is None:
            return
        used = _read_used(remap)
        _check_used(used, remap, num_codes)
        self.register_buffer("used", torch.tensor(used))
        self.re_embed = len(used)
        self.unknown_index = unknown_index
        if unknown_index == "extra":
            self.unknown_index = self.re_embed
            self.re_embed += 1
        elif unknown_index != "random" and (
            not isinstance(unknown_index, int) or not 0 <= unknown_index < self.re_embed
        ):
            raise ValueError(
                f'unknown_index must be "random", "extra" or an integer in [0, {self.re_embed}), '
                f"got {unknown_index!r}"
            )
        log.info(
            "Remapping %d indices to %d; unknown ones become %s.",
            num_codes, self.re_embed, self.unknown_index,
        )  # fmt: skip

    def remap_to_used(self, inds: Tensor) -> Tensor:
        """New indices, of the shape of `inds`, of codes."""
        used = self.used.to(inds)
        num_used = len(used)
        # The first place of each code in the list; num_used where there is none.
        place = torch.full((self._num_codes(),), num_used, dtype=inds.dtype, device=inds.device)
        place.scatter_reduce_(0, used, torch.arange(num_used, device=inds.device).to(inds), "amin")
        new = place[inds]
        unknown = new == num_used
        if self.unknown_index == "random":
            # Drawn on the CPU and only for these, as the peers do: equal seeds, equal indices.
            new[unknown] = torch.randint(0, self.re_embed, size=new[unknown].shape).to(new)
            return new
        return new.masked_fill(unknown, self.unknown_index)

    def unmap_to_all(self, inds: Tensor) -> Tensor:
        """Codes, of the shape of `inds`, of new indices; the extra index becomes the first code."""
        used = self.used.to(inds)
        return used[torch.where(inds >= len(used), 0, inds)]

    def _num_codes(self) -> int:
        raise NotImplementedError


def _read_used(path: str | os.PathLike[str]) -> np.ndarray:
    wrong = (
        f"remap must name a .npy file of integers; {os.fspath(path)} is none, or holds Python "
        "objects, which are not read"
    )
    try:
        used = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:  # its text would advise to unpickle the file
        raise ValueError(wrong) from error
    if not isinstance(used, np.ndarray):  # several arrays, a .npz file
        used.close()
        raise ValueError(wrong)
    return used


def _check_used(used: np.ndarray, path: Any, num_codes: int) -> None:
    expected = f"remap must name a file with a list of 1 to {num_codes} codes in [0, {num_codes})"
    if used.ndim != 1 or not np.issubdtype(used.dtype, np.integer):
        raise ValueError(f"{expected}, got {used.dtype} of shape {used.shape} in {path}")
    if not 1 <= len(used) <= num_codes:
        raise ValueError(f"{expected}, got {len(used)} of them in {path}")
    if used.min() < 0 or used.max() >= num_codes:
        bad = used.min() if used.min() < 0 else used.max()
        raise ValueError(f"{expected}, got the code {bad} in {path}")
