"""The backward pass of `vector_quantize` called by itself, on indices of the test's own choice."""

from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import DTYPES
from torch import Tensor

from vqgan_fast import ops


def gradient_layouts(z: Tensor) -> dict[str, Tensor]:
    """Gradients of z_q as they come: like z, in the other order, broadcast, strided."""
    *heads, d = z.shape
    return {
        "rows": torch.randn(z.shape).to(z.dtype),
        "images": torch.randn(d, *heads).to(z.dtype).movedim(0, -1),
        "one number": torch.tensor(0.3).to(z.dtype).expand(z.shape),
        "one row": torch.randn(d).to(z.dtype).expand(z.shape),
        "strided": torch.randn(*heads, 2 * d).to(z.dtype)[..., ::2],
        "another type": torch.randn(z.shape, dtype=torch.float64),
        "none": None,
    }


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
@pytest.mark.parametrize("d", [3, 40, 70])
def test_the_gradient_of_z_is_rounded_once(dtypes: tuple[torch.dtype, torch.dtype], d: int) -> None:
    images = torch.randn(2, d, 9, 13).to(dtypes[0])
    # One of the codebooks has rows that are not contiguous.
    codebook, codes = torch.randn(2 * d, 50).to(dtypes[1]).T[:, ::2], torch.randint(50, (2, 9, 13))
    one, zero = torch.tensor(3.0, dtype=torch.float64), torch.zeros(())
    turned = images.mT.contiguous().mT
    layouts = (images.movedim(1, -1), images.movedim(1, -1).contiguous(), turned.movedim(1, -1))
    for z, book in itertools.product(layouts, (codebook, codebook.contiguous())):
        for name, grad_z_q in gradient_layouts(z).items():
            scale = 2.0 / z.numel() * 3.0
            expected = scale * (z.double() - book[codes].double())
            if grad_z_q is not None:
                expected = grad_z_q.double() + expected
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found = torch.ops.vqgan_fast.vector_quantize_backward(
                    grad_z_q, one, zero, z, book, codes, True, False
                )[0]
                assert found.stride() == torch.empty_like(z).stride()
                narrow = dtypes[0] in (torch.float16, torch.bfloat16)
                rounded = (expected.float() if narrow else expected).to(dtypes[0])
                assert torch.equal(found, rounded), name


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 2100, 2, 2), (2, 20, 36, 36), (9, 65, 8, 8)], ids=str)
def test_the_gradient_of_z_in_lines_of_any_length(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    """Rows and columns that are longer than what is gone through at once, or follow each other."""
    images, codebook = torch.randn(shape).to(dtype), torch.randn(30, shape[1])
    indices = torch.randint(30, (shape[0], *shape[2:]))
    for z in (images.movedim(1, -1), images.movedim(1, -1).contiguous()):
        for grad_z_q in (torch.randn_like(z), torch.ones((), dtype=dtype).expand(z.shape), None):
            found = torch.ops.vqgan_fast.vector_quantize_backward(
                grad_z_q, torch.ones(()), torch.zeros(()), z, codebook, indices, True, False
            )[0]
            expected = 2.0 / z.numel() * (z.double() - codebook[indices].double())
            if grad_z_q is not None:
                expected = grad_z_q.double() + expected
            assert torch.equal(
                found, (expected if dtype == torch.float64 else expected.float()).to(dtype)
            )


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_of_the_codebook_at_every_thread_count(
    dtype: torch.dtype, collapsed: bool
) -> None:
    images, codebook = torch.randn(3, 48, 20, 20, dtype=dtype), torch.randn(900, 48, dtype=dtype)
    indices = torch.randint(900, (3, 20, 20))
    if collapsed:
        indices[:, 1:] = 7
    one, zero = torch.ones(()), torch.zeros(())
    results = []
    for z in (images.movedim(1, -1), images.movedim(1, -1).contiguous()):
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(
                torch.ops.vqgan_fast.vector_quantize_backward(
                    None, zero, one, z, codebook, indices, False, True
                )[1]
            )
    counts, sums = ops.codebook_stats(images.double().movedim(1, -1), indices, 900)
    expected = 2.0 / images.numel() * (counts[:, None] * codebook.double() - sums)
    assert torch.equal(results[0], expected.to(dtype))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_the_gradient_of_a_codebook_in_any_layout() -> None:
    """Of more columns than are summed at a time, for latents in rows and in columns."""
    books = {
        "turned": torch.randn(300, 50).T,
        "a slice": torch.randn(50, 303)[:, 2:302],
        "every other": torch.randn(100, 600)[::2, ::2],
    }
    indices = torch.randint(40, (2, 9, 9))
    one, zero = torch.ones(()), torch.zeros(())
    backward = torch.ops.vqgan_fast.vector_quantize_backward
    images = torch.randn(2, 300, 9, 9).movedim(1, -1)
    counts, sums = ops.codebook_stats(images.double(), indices, 50)
    for name, book in books.items():
        expected = 2.0 / images.numel() * (counts[:, None] * book.double() - sums)
        for z in (images, images.contiguous()):
            found = backward(None, zero, one, z, book, indices, False, True)[1]
            assert torch.equal(found, expected.float()), name


def test_bad_backward_arguments_are_named() -> None:
    z, codebook, zero = torch.randn(6, 4), torch.randn(5, 4), torch.zeros(())
    indices = torch.zeros(6, dtype=torch.int64)
    backward = torch.ops.vqgan_fast.vector_quantize_backward
    with pytest.raises(
        RuntimeError, match=r"indices must lie in \[0, 5\), got 5 at flat position 2"
    ):
        backward(
            None, zero, zero, z, codebook, indices.index_fill(0, torch.tensor(2), 5), True, True
        )
    with pytest.raises(
        RuntimeError, match=r"grad_z_q must have the shape of z \(6, 4\), got \(4,\)"
    ):
        backward(z[0], zero, zero, z, codebook, indices, True, True)
    with pytest.raises(RuntimeError, match="grad_commitment must have one element, got"):
        backward(None, z, zero, z, codebook, indices, True, True)
    with pytest.raises(RuntimeError, match=r"indices must be int64, got torch\.int32"):
        backward(None, zero, zero, z, codebook, indices.int(), True, True)
