"""The account of pictures that could not be read, or whose maps could not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch

from vqgan_fast.data import CropMap
from vqgan_fast.data.images import PictureFile
from vqgan_fast.data.maps import FileMap

from .distributed import Ranks


class SkippedFiles:
    """Collects the names that batches report; the user hears of each file once.

    Args:
        files: all pictures.
        maps: the kinds of maps that go with them.
        warn: told of each unreadable one, by name, with its maps that are files.
    """

    def __init__(
        self,
        files: Sequence[PictureFile],
        maps: Sequence[CropMap],
        ranks: Ranks,
        warn: Callable[[str], None],
    ) -> None:
        self._files = files
        self._maps = [kind.files for kind in maps if isinstance(kind, FileMap)]
        self._seen = torch.zeros(len(files), dtype=torch.int32)
        self._told: set[int] = set()
        self._ranks, self._warn = ranks, warn

    @cached_property
    def _index(self) -> dict[str, int]:
        """By name; made when the first one is skipped, for there may be millions of files."""
        return {str(file): i for i, file in enumerate(self._files)}

    def add(self, names: Iterable[str]) -> None:
        """Take in the unreadable files that a batch met."""
        for name in names:
            self._seen[self._index[name]] = 1

    def report(self) -> int:
        """Warn of files that are new since the last call; returns how many all ranks skipped."""
        found = self._ranks.sum(self._seen.clone()).nonzero().flatten().tolist()
        for i in found:
            if i not in self._told:
                self._told.add(i)
                which = " or ".join(["it", *(f"its map {maps[i]}" for maps in self._maps)])
                self._warn(f"skipped {self._files[i]}: {which} cannot be read; training goes on")
        return len(found)
