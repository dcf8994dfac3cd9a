"""Other ways to find the nearest code, each at its best setting."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from rotation import Contender
from torch import Tensor
from torch_searches import addmm_argmin, cdist_argmin, reference_expression

Search = Callable[[], Tensor]

# Above this many distances only the strongest peers are timed, and these in blocks of rows of so
# many, which is faster than one matrix of gigabytes.
LARGE = 1 << 27
HAVE = {
    name: importlib.util.find_spec(name) is not None
    for name in ("faiss", "scipy", "sklearn", "vector_quantize_pytorch")
}
PACKAGES = {"scikit-learn": "sklearn", "vq-pytorch": "vector_quantize_pytorch"}
if HAVE["faiss"]:
    import faiss

    # Its default sends searches of fewer rows down an unfused path; 20 is the faster setting.
    faiss.cvar.distance_compute_blas_threshold = 20
if HAVE["sklearn"]:
    import sklearn
    from sklearn.metrics import pairwise_distances_argmin

    sklearn.set_config(assume_finite=True)
if HAVE["scipy"]:
    from scipy.spatial import cKDTree
if HAVE["vector_quantize_pytorch"]:
    import vector_quantize_pytorch


def faiss_search(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.from_numpy(faiss.knn(z.numpy(), codebook.numpy(), 1)[1][:, 0])


def sklearn_search(z: Tensor, codebook: Tensor) -> Tensor:
    return torch.from_numpy(pairwise_distances_argmin(z.numpy(), codebook.numpy()))


def vq_pytorch(z: Tensor, codebook: Tensor) -> Search:
    """The forward pass of VectorQuantize, which also looks the codes up."""
    quantizer = vector_quantize_pytorch.VectorQuantize(
        dim=codebook.shape[1], codebook_size=codebook.shape[0]
    ).eval()
    quantizer._codebook.embed.data.copy_(codebook[None])

    def search() -> Tensor:
        with torch.no_grad():
            return quantizer(z[None])[1][0]

    return search


def tree_query(z: Tensor, codebook: Tensor) -> Search:
    """A tree that stands before the clock starts."""
    tree, rows = cKDTree(codebook.numpy()), z.numpy()
    return lambda: torch.from_numpy(tree.query(rows, workers=torch.get_num_threads())[1])


def mm_alone(z: Tensor, codebook: Tensor) -> Callable[[], None]:
    """The product, into memory that is there already. It finds nothing."""
    blocks = z.split(rows_of_a_block(codebook))
    out = torch.empty(len(blocks[0]), len(codebook))

    def product() -> None:
        for block in blocks:
            torch.mm(block, codebook.t(), out=out[: len(block)])

    return product


def is_installed(peer: str) -> bool:
    """Whether the package that a peer is from, if it is from one, is here."""
    return HAVE.get(PACKAGES.get(peer, peer), True)


def rows_of_a_block(codebook: Tensor) -> int:
    return max(1, LARGE // len(codebook))


def in_blocks(search: Callable[[Tensor, Tensor], Tensor], z: Tensor, codebook: Tensor) -> Search:
    blocks = z.split(rows_of_a_block(codebook))
    return lambda: torch.cat([search(block, codebook) for block in blocks])


class Compiled:
    """torch.compile of `addmm_argmin`, compiled once for every shape; `problem` says why not."""

    problem: str | None = None
    _compiled: Callable[[Tensor, Tensor], Tensor] | None = None

    def search(self, z: Tensor, codebook: Tensor) -> Search | None:
        if self.problem is not None:
            return None
        try:
            if self._compiled is None:
                self._compiled = torch.compile(addmm_argmin, dynamic=True)
            self._compiled(z, codebook)
        except Exception as error:  # whatever the compiler raises, the others can be timed
            self.problem = f"torch.compile failed: {str(error).splitlines()[0]}"
            return None
        return lambda: self._compiled(z, codebook)


COMPILED = Compiled()


def peers(z: Tensor, codebook: Tensor) -> tuple[dict[str, Contender], dict[str, str]]:
    """Each peer's search, and why the others are left out."""
    found: dict[str, Callable[[], object] | None] = {"mm alone": mm_alone(z, codebook)}
    left_out: dict[str, str] = {}
    large = len(z) * len(codebook) > LARGE
    if HAVE["faiss"]:
        found["faiss"] = lambda: faiss_search(z, codebook)
    else:
        left_out["faiss"] = "not installed"
    found["addmm+argmin"] = in_blocks(addmm_argmin, z, codebook)

    slower: dict[str, Callable[[], Callable[[], object] | None]] = {
        "compiled": lambda: COMPILED.search(z, codebook),
        "cdist+argmin": lambda: lambda: cdist_argmin(z, codebook),
        "reference": lambda: lambda: reference_expression(z, codebook),
        "scikit-learn": lambda: lambda: sklearn_search(z, codebook),
        "vq-pytorch": lambda: vq_pytorch(z, codebook),
    }
    for name, make in slower.items():
        if large:
            left_out[name] = "large shape: only the strongest peers"
        elif not is_installed(name):
            left_out[name] = "not installed"
        elif (search := make()) is None:
            left_out[name] = COMPILED.problem or ""
        else:
            found[name] = search
    if codebook.shape[1] <= (4 if large else 8) and HAVE["scipy"]:
        found["cKDTree"] = tree_query(z, codebook)
    return {name: Contender(call) for name, call in found.items()}, left_out
