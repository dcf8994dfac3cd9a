"""The plain-torch definitions against the kernels: what runs on devices that have none."""

from __future__ import annotations

import pytest
import torch
from search_cases import CASES, assert_is_oracle

from vqgan_fast import ops
from vqgan_fast.ops import checks, reference

# Without a fused multiply-add the plain sums tie and round differently in these.
ROUNDING_DECIDES = {"far_latents", "subnormal"}


@pytest.mark.parametrize("case", sorted(set(CASES) - ROUNDING_DECIDES))
def test_nearest_code(case: str) -> None:
    z, codebook = CASES[case](40, 60, 5)
    indices, distances = reference.nearest_code(z, codebook)
    found = ops.nearest_code(z, codebook)
    assert torch.equal(indices, found[0])
    torch.testing.assert_close(distances, found[1], rtol=1e-6, atol=0, equal_nan=True)


def test_rows_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference.codebook, "BLOCK_ELEMENTS", 100)
    z, codebook = CASES["gaussian"](50, 30, 6)
    assert_is_oracle(z, codebook, reference.nearest_code(z, codebook))


@pytest.mark.parametrize("heads", [(), (3,), (2, 2), (0,)])
def test_vector_quantize(heads: tuple[int, ...]) -> None:
    z, codebook = torch.randn(*heads, 40, 6), torch.randn(*heads, 20, 6)
    found = ops.vector_quantize(z, codebook)
    expected = reference.vector_quantize(z, codebook)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    grad_z_q, weights = torch.randn_like(z), (torch.tensor(0.3), torch.tensor(0.7))
    for grad in (grad_z_q, None):
        for needs in ((True, True), (True, False), (False, True)):
            arguments = (grad, *weights, z, codebook, found[1], *needs)
            one = torch.ops.vqgan_fast.vector_quantize_backward(*arguments)
            other = reference.vector_quantize_backward(*arguments)
            torch.testing.assert_close(one, other)


def test_layout_of_z_q() -> None:
    images = torch.randn(2, 8, 4, 6)
    z_q = reference.vector_quantize(images.movedim(1, -1), torch.randn(10, 8))[0]
    assert z_q.movedim(-1, 1).is_contiguous()


def test_codebook_stats() -> None:
    z, indices = torch.randn(4, 50, 6), torch.randint(9, (4, 50))
    found = ops.codebook_stats(z, indices, 9)
    for one, other in zip(found, reference.codebook_stats(z, indices, 9), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match=r"in \[0, 9\), got 9 at flat position 3"):
        reference.codebook_stats(torch.zeros(4, 1), torch.tensor([0, 1, 2, 9]), 9)


def test_checks_say_what_the_kernels_say() -> None:
    z, codebook = torch.zeros(5, 8), torch.zeros(7, 8)
    with pytest.raises(RuntimeError, match=r"codebook must be \(K, D\) with D = 8, got \(7, 3\)"):
        reference.nearest_code(z, codebook[:, :3])
    with pytest.raises(RuntimeError, match="codebook must be on cpu like z, got meta"):
        checks.check_search(z, codebook.to("meta"))
    with pytest.raises(RuntimeError, match="indices must be on cpu like z, got meta"):
        checks.check_stats(z, torch.zeros(5, dtype=torch.int64, device="meta"), 3)
