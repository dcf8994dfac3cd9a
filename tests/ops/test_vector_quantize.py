from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import CASES, DTYPES, oracle
from search_ways import cpu_levels
from torch import Tensor
from torch.testing import assert_close

from vqgan_fast import ops


def plain(z: Tensor, codebook: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reference's expressions: straight-through z_q and the two losses."""
    codes = codebook[indices]
    z_q = z + (codes - z).detach()
    return z_q, (codes.detach() - z).square().mean(), (codes - z.detach()).square().mean()


def gradients(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a sum with a weight of its own for every number of z_q and for each loss."""
    z_q, commitment_loss, codebook_loss = outputs
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(z_q.shape, generator=generator, dtype=torch.float64)
    loss = (weights.to(z_q.dtype) * z_q).sum() + 3.0 * commitment_loss + 7.0 * codebook_loss
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
def test_forward_is_the_plain_expression(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    for case in ("gaussian", "duplicates", "vqgan_init"):
        z, codebook = CASES[case](100, 50, 24)
        z, codebook = z.to(dtypes[0]), codebook.to(dtypes[1])
        z_q, indices, commitment_loss, codebook_loss = ops.vector_quantize(z, codebook)
        chosen, distances = oracle(z, codebook)
        assert torch.equal(indices, chosen)
        assert z_q.dtype == z.dtype
        assert torch.equal(z_q, plain(z, codebook, chosen)[0].to(z.dtype))
        fp64 = torch.float64 in dtypes
        expected = (distances.sum() / z.numel()).to(torch.float64 if fp64 else torch.float32)
        assert_close(commitment_loss, expected, rtol=1e-12 if fp64 else 1e-7, atol=0)
        assert torch.equal(commitment_loss, codebook_loss)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_gradients_are_those_of_the_plain_expression(dtype: torch.dtype, tolerance: float) -> None:
    z, codebook = CASES["gaussian"](300, 40, 17)
    z, codebook = z.to(dtype).requires_grad_(), codebook.to(dtype).requires_grad_()
    z_q, indices, *losses = ops.vector_quantize(z, codebook)
    assert len(indices.unique()) < 40, "the gradient of an unused code must be looked at too"
    found = gradients((z_q, *losses), (z, codebook))
    expected = gradients(plain(z, codebook, indices), (z, codebook))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
def test_gradients_of_every_type(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    inputs = zip(CASES["gaussian"](90, 20, 9), dtypes, strict=True)
    low = tuple(x.to(dtype).requires_grad_() for x, dtype in inputs)
    exact = tuple(x.detach().double().requires_grad_() for x in low)
    z_q, indices, *losses = ops.vector_quantize(*low)
    found = gradients((z_q, *losses), low)
    expected = gradients(plain(*exact, indices), exact)
    for one, other, dtype in zip(found, expected, dtypes, strict=True):
        assert one.dtype == dtype
        # One rounding to the type of the result, and the weights of z_q rounded to that of z.
        assert_close(
            one.double(), other, rtol=4 * max(torch.finfo(t).eps for t in dtypes), atol=1e-6
        )


def test_each_output_alone() -> None:
    z, codebook = (x.requires_grad_() for x in CASES["gaussian"](50, 20, 6))
    for i, j in ((0, 0), (2, 1), (3, 2)):
        found = torch.autograd.grad(
            ops.vector_quantize(z, codebook)[i].sum(), (z, codebook), allow_unused=True
        )
        indices = ops.nearest_code(z, codebook)[0]
        expected = torch.autograd.grad(
            plain(z, codebook, indices)[j].sum(), (z, codebook), allow_unused=True
        )
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_close(one, other)


def test_a_gradient_of_z_q_alone_passes_untouched() -> None:
    z, codebook = CASES["gaussian"](20, 10, 4)
    z[7, 2] = torch.inf
    z.requires_grad_()
    ops.vector_quantize(z, codebook)[0].sum().backward()
    assert torch.equal(z.grad, torch.ones(20, 4))
    penalty = ops.vector_quantize(z, codebook)[0][:7].square().sum()
    (gradient,) = torch.autograd.grad(penalty, z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), z)
    assert torch.equal(second[:7], torch.full((7, 4), 2.0))


def test_a_loss_beyond_fp32_is_infinite() -> None:
    z, codebook = CASES["huge"](20, 10, 4)
    z_q, indices, *losses = ops.vector_quantize(z, codebook)
    assert torch.equal(indices, oracle(z, codebook)[0])
    assert torch.equal(z_q, plain(z, codebook, indices)[0])
    assert [loss.item() for loss in losses] == [torch.inf, torch.inf]


def test_flushing_subnormals_does_not_matter() -> None:
    z, codebook = (1e-21 * x for x in CASES["gaussian"](20, 10, 4))
    expected = ops.vector_quantize(z, codebook)[2].item()
    assert 0 < expected < torch.finfo(torch.float32).tiny
    assert torch.set_flush_denormal(True)
    try:
        loss = ops.vector_quantize(z, codebook)[2]
    finally:
        torch.set_flush_denormal(False)
    assert loss.item() == expected


def test_only_what_needs_a_gradient() -> None:
    z, codebook = CASES["gaussian"](50, 20, 6)
    for needs in ((True, False), (False, True)):
        inputs = [
            x.clone().requires_grad_(need) for x, need in zip((z, codebook), needs, strict=True)
        ]
        z_q, _, *losses = ops.vector_quantize(*inputs)
        (z_q.sum() + losses[0] + losses[1]).backward()
        assert [x.grad is not None for x in inputs] == list(needs)


def layouts() -> dict[str, Tensor]:
    images = torch.randn(3, 12, 4, 5)
    return {
        "images": images.movedim(1, -1),
        "channels last": images.to(memory_format=torch.channels_last).movedim(1, -1),
        "transposed": torch.randn(12, 40).T,
        "every other row": torch.randn(80, 12)[::2],
        "cropped images": torch.randn(3, 12, 9, 9)[:, :, 2:6, 3:8].movedim(1, -1),
        "three levels": torch.randn(4, 5, 6, 12).permute(2, 1, 0, 3),
        "one row many times": torch.randn(1, 12).expand(40, 12),
    }


@pytest.mark.parametrize("layout", layouts())
def test_memory_layout(layout: str) -> None:
    z, codebook = layouts()[layout], torch.randn(30, 12).requires_grad_()
    leaf = z.detach().requires_grad_()
    z_q, indices, *losses = ops.vector_quantize(leaf, codebook)
    assert z_q.stride() == torch.empty_like(z).stride()
    assert torch.equal(z_q, plain(z, codebook, indices)[0])
    found = gradients((z_q, *losses), (leaf, codebook))
    packed = z.contiguous().requires_grad_()
    z_q, same, *losses = ops.vector_quantize(packed, codebook)
    assert torch.equal(indices, same)
    for one, other in zip(found, gradients((z_q, *losses), (packed, codebook)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
def test_the_value_does_not_depend_on_the_layout(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    for d, side in ((3, 5), (37, 9), (64, 16)):
        images = torch.randn(2, d, side, side).to(dtypes[0])
        codebook = torch.randn(d, 30).to(dtypes[1]).T
        for z in (images.movedim(1, -1), images.movedim(1, -1).contiguous()):
            for book in (codebook, codebook.contiguous()):
                z_q, indices, *_ = ops.vector_quantize(z, book)
                assert torch.equal(z_q, plain(z, codebook, indices)[0].to(z.dtype))


def test_every_simd_level_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    inputs = [
        (torch.randn(2, 21, 6, 6).to(a).movedim(1, -1), torch.randn(30, 21).to(b))
        for a, b in itertools.product(DTYPES, DTYPES)
    ]

    def results() -> list[Tensor]:
        found = []
        for z, codebook in inputs:
            leaves = z.clone().requires_grad_(), codebook.clone().requires_grad_()
            z_q, indices, *losses = ops.vector_quantize(*leaves)
            found += [z_q, indices, *losses, *gradients((z_q, *losses), leaves)]
            found += ops.codebook_stats(z, indices, 30)
        return found

    expected = results()
    for level in cpu_levels():
        monkeypatch.setenv("VQGAN_FAST_ISA", level)
        assert all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True)), level


def test_images_come_back_as_images() -> None:
    images = torch.randn(2, 8, 4, 6)
    z_q = ops.vector_quantize(images.movedim(1, -1), torch.randn(10, 8))[0]
    assert z_q.movedim(-1, 1).is_contiguous()


def test_a_codebook_for_each_head() -> None:
    z = torch.randn(3, 40, 8, requires_grad=True)
    codebook = torch.randn(3, 20, 8, requires_grad=True)
    z_q, indices, *losses = ops.vector_quantize(z, codebook)
    found = gradients((z_q, *losses), (z, codebook))
    codes = torch.stack([codebook[h][indices[h]] for h in range(3)])
    for h in range(3):
        assert torch.equal(indices[h], oracle(z[h], codebook[h])[0])
    expected = (
        z + (codes - z).detach(),
        (codes.detach() - z).square().mean(),
        (codes - z.detach()).square().mean(),
    )
    assert torch.equal(z_q, expected[0])
    for one, other in zip(found, gradients(expected, (z, codebook)), strict=True):
        assert_close(one, other)


@pytest.mark.usefixtures("restore_threads")
def test_the_same_bits_at_every_run_and_thread_count() -> None:
    images, codebook = torch.randn(2, 20, 24, 24, requires_grad=True), torch.randn(60, 20)
    codebook.requires_grad_()
    results = []
    for threads in (1, 1, 2, 3):
        torch.set_num_threads(threads)
        z_q, indices, *losses = ops.vector_quantize(images.movedim(1, -1), codebook)
        results.append([z_q, indices, *losses, *gradients((z_q, *losses), (images, codebook))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_rows() -> None:
    z = torch.zeros(2, 0, 8, requires_grad=True)
    codebook = torch.randn(5, 8, requires_grad=True)
    z_q, indices, commitment_loss, codebook_loss = ops.vector_quantize(z, codebook)
    assert (z_q.shape, indices.shape) == ((2, 0, 8), (2, 0))
    assert commitment_loss.isnan() and codebook_loss.isnan()  # the mean of nothing
    (z_q.sum() + commitment_loss + codebook_loss).backward()
    assert z.grad.shape == z.shape
    assert torch.equal(codebook.grad, torch.zeros(5, 8))


def test_a_bad_latent_shows_in_the_loss_and_nowhere_else() -> None:
    z, codebook = CASES["gaussian"](20, 10, 4)
    good = ops.vector_quantize(z, codebook)
    z[7, 2] = torch.nan
    z_q, indices, *losses = ops.vector_quantize(z, codebook)
    assert indices[7] == 0
    assert all(loss.isnan() for loss in losses)
    others = torch.arange(20) != 7
    assert torch.equal(z_q[others], good[0][others])


def test_an_unused_nan_code_has_no_gradient() -> None:
    z, codebook = CASES["gaussian"](20, 10, 4)
    codebook[3] = torch.nan
    codebook.requires_grad_()
    ops.vector_quantize(z, codebook)[3].backward()
    assert torch.equal(codebook.grad[3], torch.zeros(4))
    assert codebook.grad.isfinite().all()


def test_fast_takes_the_same_path() -> None:
    z, codebook = CASES["gaussian"](80, 40, 8)
    for one, other in zip(
        ops.vector_quantize(z, codebook, "fast"), ops.vector_quantize(z, codebook), strict=True
    ):
        assert torch.equal(one, other)


def test_a_second_derivative_is_refused() -> None:
    z, codebook = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4)
    loss = ops.vector_quantize(z, codebook)[2]
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        gradient.sum().backward()


def test_autocast() -> None:
    z, codebook = torch.randn(20, 8, dtype=torch.bfloat16), torch.randn(30, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_q, indices, *losses = ops.vector_quantize(z, codebook)
    assert torch.equal(indices, oracle(z, codebook)[0])
    assert (z_q.dtype, losses[0].dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_16_bits(dtype: torch.dtype) -> None:
    # One latent of zeros and one code, so that z_q is the code rounded: to every 16-bit number, to
    # the middle between neighbours, and to both sides of it.
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    numbers = numbers[numbers.isfinite()].double().unique()
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    code = torch.cat(
        [
            numbers.float(),
            middles,
            middles.nextafter(torch.tensor(torch.inf)),
            middles.nextafter(torch.tensor(-torch.inf)),
            torch.tensor([65519.0, 65520.0, 1e10, 3.4e38, torch.inf, -torch.inf, torch.nan]),
        ]
    )[None]
    z_q = ops.vector_quantize(torch.zeros(code.shape, dtype=dtype), code)[0]
    assert torch.equal(z_q.nan_to_num(-1, 7e4, -7e4), code.to(dtype).nan_to_num(-1, 7e4, -7e4))
