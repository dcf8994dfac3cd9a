"""`nearest_code` beside the forms that one writes with torch, and faiss where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops

SHAPES = [
    (4096, 8192, 4),
    (4096, 16384, 8),
    (4096, 8192, 32),
    (4096, 16384, 64),
    (4096, 1024, 256),
    (256, 1024, 256),
    (1, 16384, 256),
]


def reference_expression(z: Tensor, codebook: Tensor) -> Tensor:
    """Squares expanded, as VQGAN's own quantiser writes it."""
    products = torch.einsum("bd,dn->bn", z, codebook.t())
    norms = (z**2).sum(dim=1, keepdim=True) + (codebook**2).sum(dim=1)
    return torch.argmin(norms - 2 * products, dim=1)


def addmm_argmin(z: Tensor, codebook: Tensor) -> Tensor:
    """The shortest form: the latents' own norms change no choice."""
    half_norms = 0.5 * codebook.square().sum(1)
    return torch.addmm(half_norms, z, codebook.t(), alpha=-1).argmin(1)


def cdist_argmin(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(z, codebook).argmin(1)


def faiss_search(z: Tensor, codebook: Tensor) -> Tensor:
    import faiss

    # Its default sends small searches down an unfused path; 20 is the faster setting.
    faiss.cvar.distance_compute_blas_threshold = 20
    faiss.omp_set_num_threads(torch.get_num_threads())
    return torch.from_numpy(faiss.knn(z.numpy(), codebook.numpy(), 1)[1][:, 0])


PEERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reference": reference_expression,
    "addmm+argmin": addmm_argmin,
    "cdist+argmin": cdist_argmin,
    "mm alone": lambda z, codebook: z @ codebook.t(),
}
if importlib.util.find_spec("faiss"):
    PEERS["faiss"] = faiss_search


def assert_nearest(z: Tensor, codebook: Tensor, indices: Tensor) -> None:
    """No code is nearer in fp64, for up to 64 of the rows."""
    some = torch.arange(0, len(z), max(1, len(z) // 64))
    rows, codes = z[some].double(), codebook.double()
    distances = torch.stack([(row - codes).square().sum(1) for row in rows])
    own = distances.gather(1, indices[some, None])[:, 0]
    assert (own <= distances.min(1).values * (1 + 1e-12)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gaussian(shape: tuple[int, int, int], compare: Callable) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    assert_nearest(z, codebook, ops.nearest_code(z, codebook, return_distance=False))
    peers = {name: lambda peer=peer: peer(z, codebook) for name, peer in PEERS.items()}
    peers["fast"] = lambda: ops.nearest_code(z, codebook, precision="fast")
    compare(
        f"nearest_code {n} x {k} x {d} fp32",
        lambda: ops.nearest_code(z, codebook),
        peers,
        2e-9 * n * k * d,
    )


@pytest.mark.parametrize("layout", ["images", "bf16"])
def test_as_a_model_has_it(layout: str, compare: Callable) -> None:
    """Latents of 16 images read in place, and in bf16 against an fp32 codebook."""
    torch.manual_seed(0)
    images, codebook = torch.randn(16, 256, 16, 16), torch.randn(1024, 256)
    z = images.movedim(1, -1) if layout == "images" else torch.randn(4096, 256).bfloat16()
    flat = z.reshape(-1, 256).float()
    indices = ops.nearest_code(z, codebook, return_distance=False)
    assert_nearest(flat, codebook, indices.reshape(-1))
    peers = {
        "copied, addmm+argmin": lambda: addmm_argmin(z.reshape(-1, 256).float(), codebook),
        "contiguous fp32": lambda: ops.nearest_code(flat, codebook),
    }
    compare(
        f"nearest_code 4096 x 1024 x 256 {layout}",
        lambda: ops.nearest_code(z, codebook),
        peers,
        2e-9 * 4096 * 1024 * 256,
    )


@pytest.mark.parametrize("case", ["init", "offset", "clustered", "collapsed"])
def test_hard_data(case: str, compare: Callable) -> None:
    """Where fp32 scores decide less: a codebook as VQGAN initialises it, an offset that dwarfs the
    spread, tight clusters, and codes so alike that all have to be measured in fp64."""
    n, k, d = 4096, 1024, 256
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    if case == "init":
        codebook = torch.empty(k, d).uniform_(-1 / k, 1 / k)
    elif case == "offset":
        z, codebook = z + 100, codebook + 100
    elif case == "clustered":
        z = codebook[torch.randint(64, (n,))] + 1e-3 * z
        codebook = codebook[torch.randint(64, (k,))] + 1e-3 * torch.randn(k, d)
    else:
        codebook = torch.randn(d) * (1 + 3e-7 * codebook)
    assert_nearest(z, codebook, ops.nearest_code(z, codebook, return_distance=False))
    peers = {name: lambda peer=peer: peer(z, codebook) for name, peer in PEERS.items()}
    compare(
        f"nearest_code {n} x {k} x {d} {case}",
        lambda: ops.nearest_code(z, codebook),
        peers,
        2e-9 * n * k * d,
    )
