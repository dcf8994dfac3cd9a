"""Quantisers of vector-quantize-pytorch and ours on two ranks, each with latents of its own.

python tests/compat/vq_pytorch_two_ranks.py FILE, with a file to meet at; forks the ranks.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from vq_pytorch_pairs import assert_same, assert_same_state, call_alike, pair

CASES = {
    "moving averages": ("VectorQuantize", {}),
    "heads": ("VectorQuantize", {"heads": 2, "separate_codebook_per_head": True}),
    "k-means": ("VectorQuantize", {"kmeans_init": True, "kmeans_iters": 5}),
    "k-means, cosine": (
        "VectorQuantize",
        {"kmeans_init": True, "kmeans_iters": 5, "use_cosine_sim": True},
    ),
    "dead codes": ("VectorQuantize", {"threshold_ema_dead_code": 2}),
    "dead codes of heads": (
        "VectorQuantize",
        {"threshold_ema_dead_code": 2, "heads": 2, "separate_codebook_per_head": True},
    ),
    "dropout": ("ResidualVQ", {"num_quantizers": 4, "quantize_dropout": True}),
    "groups": (
        "GroupedResidualVQ",
        {"groups": 2, "num_quantizers": 3, "threshold_ema_dead_code": 1, "quantize_dropout": True},
    ),
    "its own optimiser": (
        "VectorQuantize",
        {
            "learnable_codebook": True,
            "ema_update": False,
            "in_place_codebook_optimizer": lambda codes: torch.optim.SGD(codes, lr=0.5),
        },
    ),
}


def assert_same_on_all_ranks(module: torch.nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(tensors, tensor)
        assert torch.equal(*tensors), f"{name} differs between ranks"


def check(name: str, options: dict) -> None:
    modules = pair(name, 0, dim=16, codebook_size=32, **options)
    rank = dist.get_rank()
    for step in range(4):
        # Ranks have different numbers of latents, and draw different random numbers.
        torch.manual_seed(10 * step + rank)
        x = torch.randn(2, 30 + 20 * rank, 16)
        theirs, own = call_alike(modules, 100 * step + rank, x)
        assert_same(own[:3], theirs[:3])
        assert_same_on_all_ranks(modules[1])
    assert_same_state(modules)


def check_local() -> None:
    """Without sync_codebook, ranks go their own ways; without sync_kmeans, so do the draws."""
    modules = pair("VectorQuantize", 0, dim=16, codebook_size=32, sync_codebook=False)
    torch.manual_seed(dist.get_rank())
    x = torch.randn(2, 30, 16)
    call_alike(modules, 0, x)
    assert_same_state(modules)
    sums = [torch.empty_like(modules[1].codebook) for _ in range(2)]
    dist.all_gather(sums, modules[1].codebook)
    assert not torch.equal(*sums)

    modules = pair(
        "VectorQuantize", 0, dim=16, codebook_size=32, sync_kmeans=False, threshold_ema_dead_code=2
    )
    call_alike(modules, dist.get_rank(), x)
    assert_same_state(modules)


def check_against_one_process() -> None:
    """The averages of two ranks are those of one with the latents of both."""
    _, together = pair("VectorQuantize", 0, dim=16, codebook_size=32)
    _, alone = pair("VectorQuantize", 0, dim=16, codebook_size=32, sync_codebook=False)
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(2, 40, 16)
        together(x[dist.get_rank()][None])
        alone(x)
    assert_same_state((alone, together))


def run_rank(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for case, (name, options) in CASES.items():
        check(name, options)
        if rank == 0:
            print(f"{case}: the same", flush=True)
    check_local()
    check_against_one_process()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run_rank, (sys.argv[1],), nprocs=2, start_method="fork")
