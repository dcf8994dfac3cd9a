"""`codebook_stats` and the backward pass of `vector_quantize`: how near they are to memory speed.

Peers are bincount with index_add_, and the gradients of the reference's expressions in plain
torch, in fp32 where that is the type of our result. The bytes of all inputs and outputs, each
counted once, over the time are set beside what the machine reads from memory; beside them stands a
plain copy of as many bytes, in the same rounds. What fits into the caches can exceed the memory.
A copy reads in order, but rows of one code lie anywhere: what memory gives then shows a sum of
gathered rows: torch's embedding_bag in fp32, of rows that were sorted by code before.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqgan_fast import ops

SHAPES = [
    (2048, 16384, 256),
    (2048, 16384, 8),
    (30720, 1024, 256),
    (32768, 8192, 64),
    (4096, 16384, 4),
    (32768, 262144, 16),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ONE_CODE_SHAPE = (32768, 8192, 64)


@pytest.fixture(scope="module", autouse=True)
def memory_that_is_there() -> None:
    """Results of less than 32 MiB come from memory that the process holds, as in a training run.

    The allocator of the GNU C library gives larger ones back to the system until it has seen one
    freed, and clearing new pages, by luck for one contender and not for another, would be measured.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)


@pytest.fixture
def report(threads: int, compare: Callable) -> Callable:
    def run(
        case: str,
        shape: tuple,
        dtype: str,
        ours: Callable,
        peer: Callable,
        size: int,
        variants: dict[str, Callable] | None = None,
    ) -> None:
        source = torch.empty(size // 2, dtype=torch.uint8).random_()
        target = torch.empty_like(source)
        compare(
            case,
            shape,
            ours,
            peers={"torch": peer},
            variants={
                "a copy of as many bytes": lambda: target.copy_(source),
                **(variants or {}),
            },
            dtype=dtype,
            gigabytes=1e-9 * size,
        )

    return run


def latents(shape: tuple[int, int, int], layout: str, dtype: torch.dtype) -> Tensor:
    n, _, d = shape
    side = 16 if n < 8192 else 32
    images = torch.randn(n // side**2, d, side, side).to(dtype).movedim(1, -1)
    return images if layout == "images" else images.contiguous()


def kind(layout: str, dtype: str) -> str:
    return layout if dtype == "fp32" else f"{dtype} {layout}"


def cases() -> list[tuple]:
    spread = [(shape, "all codes") for shape in SHAPES] + [(ONE_CODE_SHAPE, "one code")]
    fp32 = [(*case, layout, "fp32") for case in spread for layout in ("rows", "images")]
    return [*fp32, (SHAPES[2], "all codes", "rows", "bf16")]


@pytest.mark.parametrize(("shape", "used", "layout", "dtype"), cases())
def test_stats(
    shape: tuple[int, int, int], used: str, layout: str, dtype: str, report: Callable
) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z = latents(shape, layout, DTYPES[dtype])
    indices = torch.randint(k if used == "all codes" else 1, z.shape[:-1])

    def index_add() -> tuple[Tensor, Tensor]:
        flat = indices.reshape(-1)
        sums = torch.zeros(k, d).index_add_(0, flat, z.reshape(-1, d).float())
        return torch.bincount(flat, minlength=k), sums

    order = indices.flatten().argsort(stable=True)
    first = torch.bincount(indices.flatten(), minlength=k).cumsum(0).roll(1)
    first[0] = 0

    def sum_sorted() -> Tensor:
        return torch.nn.functional.embedding_bag(order, z.view(-1, d), first, mode="sum")

    counts, sums = ops.codebook_stats(z, indices, k)
    expected = index_add()
    gathered = layout == "rows" and dtype == "fp32"
    if gathered:
        torch.testing.assert_close(sums, sum_sorted(), rtol=1e-3, atol=1e-1)
    assert torch.equal(counts, expected[0])
    torch.testing.assert_close(sums, expected[1], rtol=1e-3, atol=1e-1)
    report(
        f"codebook_stats of {kind(layout, dtype)}, {used}",
        shape,
        dtype,
        lambda: ops.codebook_stats(z, indices, k),
        index_add,
        n * (d * z.element_size() + 8) + k * (d * 4 + 8),
        {"a sum of sorted rows": sum_sorted} if gathered else None,
    )


@pytest.mark.parametrize(("shape", "used", "layout", "dtype"), cases())
@pytest.mark.parametrize("gradient", ["z", "codebook"])
def test_backward(
    gradient: str,
    shape: tuple[int, int, int],
    used: str,
    layout: str,
    dtype: str,
    report: Callable,
) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z, codebook = latents(shape, layout, DTYPES[dtype]), torch.randn(k, d)
    indices = torch.randint(k if used == "all codes" else 1, z.shape[:-1])
    grad_z_q, one = torch.randn_like(z), torch.ones(())
    scale = 2.0 / z.numel()
    for_z = gradient == "z"

    def ours() -> Tensor:
        backward = torch.ops.vqgan_fast.vector_quantize_backward
        grads = backward(grad_z_q, one, one, z, codebook, indices, for_z, not for_z)
        return grads[0 if for_z else 1]

    def plain() -> Tensor:
        difference = scale * (z - codebook[indices])
        if for_z:
            return (grad_z_q + difference).to(z.dtype)
        flat = -difference.reshape(-1, d)
        return torch.zeros(k, d).index_add_(0, indices.reshape(-1), flat)

    torch.testing.assert_close(ours(), plain(), rtol=2e-2, atol=1e-4)
    z_bytes = n * d * z.element_size()
    used_bytes = 4 * d * len(indices.unique())
    report(
        f"grad_{gradient} of {kind(layout, dtype)}, {used}",
        shape,
        dtype,
        ours,
        plain,
        3 * z_bytes + used_bytes if for_z else z_bytes + used_bytes + 4 * k * d,
    )
