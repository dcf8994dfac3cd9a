"""Searches on which an index from another content of the codebook is a wrong one."""

from __future__ import annotations

import torch
from search_cases import oracle
from torch import Tensor

from vqgan_fast import ops

ROWS = 400


def latents_on(codebook: Tensor) -> Tensor:
    """Close to codes here and there, and to those that the routes below change alone."""
    k = len(codebook)
    codes = torch.cat([torch.tensor([0, k // 3, k // 2, k - 1]), torch.randint(k, (ROWS,))])
    return codebook.detach()[codes] * 1.001


def check_on(z: Tensor, codebook: Tensor, calls: int) -> None:
    """Right on each of the first calls: when it is packed, when it is kept, when it is found."""
    indices, distances = oracle(z, codebook)
    for _ in range(calls):
        found = ops.nearest_code(z, codebook)
        assert torch.equal(found[0], indices)
        assert torch.equal(found[1].nan_to_num(-1), distances.to(found[1].dtype).nan_to_num(-1))


def check(codebook: Tensor, calls: int = 4) -> None:
    check_on(latents_on(codebook), codebook, calls)
