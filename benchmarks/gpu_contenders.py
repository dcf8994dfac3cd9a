"""Who takes part in gpu_speed.py: ours by every way, torch's expressions, flash-kmeans."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch_searches import addmm_argmin, cdist_argmin, reference_expression

from vqgan_fast import ops

WAYS = ("exact", "direct", "mma", "wgmma")  # the order of vqgan_fast::SearchWay
Search = Callable[[], Tensor]


@contextmanager
def search_way(way: str) -> Iterator[None]:
    """Ours go this way meanwhile, where it can be gone."""
    before = os.environ.get("VQGAN_FAST_CUDA_SEARCH")
    os.environ["VQGAN_FAST_CUDA_SEARCH"] = way
    try:
        yield
    finally:
        if before is None:
            del os.environ["VQGAN_FAST_CUDA_SEARCH"]
        else:
            os.environ["VQGAN_FAST_CUDA_SEARCH"] = before


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def can_go(way: str, z: Tensor, codebook: Tensor) -> bool:
    """Whether the search of these goes the way that it is asked to."""
    try:
        with search_way(way):
            return WAYS[torch.ops.vqgan_fast._nearest_code_way(z, codebook)] == way
    except Exception as error:
        print(f"whether {way} can be gone is not known: {told(error)}", file=sys.stderr)
        return False


def ours(z: Tensor, codebook: Tensor) -> dict[str, Search]:
    """Both modes, by whichever way the environment says."""
    return {
        "exact": lambda: ops.nearest_code(z, codebook, "exact", False),
        "fast": lambda: ops.nearest_code(z, codebook, "fast", False),
    }


def by_ways(ways: list[str], z: Tensor, codebook: Tensor) -> dict[str, Search]:
    """The exact search by each of `ways` that can be gone."""

    def search(way: str) -> Tensor:
        with search_way(way):
            return ops.nearest_code(z, codebook, "exact", False)

    return {f"exact by {way}": partial(search, way) for way in ways if can_go(way, z, codebook)}


def peers(z: Tensor, codebook: Tensor, compiled: bool) -> dict[str, Search]:
    """Those that can search here; with `compiled` also what torch.compile makes, in some 15 s."""
    found: dict[str, Search] = {}
    if len(z) * len(codebook) * 4 <= torch.cuda.mem_get_info()[0] // 4:
        found |= {
            "torch addmm + argmin": lambda: addmm_argmin(z, codebook),
            "taming": lambda: reference_expression(z, codebook),
        }
        if compiled:
            torch.compiler.reset()  # or sizes become variables, which makes slower code
            search = torch.compile(addmm_argmin, dynamic=False)
            found["torch.compile of that"] = lambda: search(z, codebook)
        if z.dtype == torch.float32:
            found["torch cdist + argmin"] = lambda: cdist_argmin(z, codebook)
    try:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton

        squares = z.float().square().sum(1)[None]
    except Exception as error:  # not installed (make gpu-wheels), or not for this triton
        print(f"no flash-kmeans: {told(error)}", file=sys.stderr)
    else:
        found["flash-kmeans"] = lambda: euclid_assign_triton(z[None], codebook[None], squares)[0]
    return found
