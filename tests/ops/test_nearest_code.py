from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from search_cases import CASES, DIMS, DTYPES, assert_is_oracle, oracle
from search_ways import LEVELS, cpu_levels

from vqgan_fast import ops


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("k", "d"), [(300, 5), (200, 32), (130, 67)])
def test_index_and_distance_are_the_oracles(case: str, k: int, d: int, level: str) -> None:
    z, codebook = CASES[case](150, k, d)
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


@pytest.mark.parametrize("d", DIMS)
def test_every_dimension(d: int, level: str) -> None:
    for k, n in ((1, 9), (2, 7), (15, 97), (16, 6), (17, 13), (100, 101)):
        for case in ("gaussian", "near_ties"):
            z, codebook = CASES[case](n, k, d)
            assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 95, 96, 97, 193])
def test_every_number_of_rows(n: int, level: str) -> None:
    z, codebook = CASES["near_ties"](n, 600, 8)
    found = ops.nearest_code(z, codebook)
    assert found[0].shape == (n,)
    assert_is_oracle(z, codebook, found)


@pytest.mark.parametrize("dtypes", [*itertools.product(DTYPES, DTYPES)], ids=str)
def test_types_and_their_mixtures(dtypes: tuple[torch.dtype, torch.dtype], level: str) -> None:
    for case in ("gaussian", "near_ties", "clustered", "not_finite", "grid"):
        z, codebook = CASES[case](60, 90, 12)
        z, codebook = z.to(dtypes[0]), codebook.to(dtypes[1])
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_read_as_it_is(dtype: torch.dtype) -> None:
    z = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)[:, None]
    indices, distances = ops.nearest_code(z, torch.zeros(1, 1, dtype=torch.float64))
    expected = z[:, 0].double().square().masked_fill(~z[:, 0].isfinite(), torch.nan)
    assert torch.equal(indices, torch.zeros(1 << 16, dtype=torch.int64))
    assert torch.equal(distances.nan_to_num(-1), expected.nan_to_num(-1))


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e-60, 1e60, 1e150, 1e200, 1e307])
def test_fp64_beyond_fp32(scale: float, level: str) -> None:
    for case in ("gaussian", "near_ties", "clustered"):
        z, codebook = (scale * x.double() for x in CASES[case](40, 70, 6))
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
        assert_is_oracle(z / scale, codebook, ops.nearest_code(z / scale, codebook))


def test_fp64_differences_below_fp32(level: str) -> None:
    codebook = 1 + 1e-12 * torch.randn(200, 9, dtype=torch.float64)
    z = 1 + 1e-12 * torch.randn(50, 9, dtype=torch.float64)
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def layouts() -> dict[str, torch.Tensor]:
    """Latents (..., 12) whose rows and elements lie in memory in every way."""
    images = torch.randn(3, 12, 4, 5)
    return {
        "contiguous": torch.randn(40, 12),
        "images": images.movedim(1, -1),
        "channels last": images.to(memory_format=torch.channels_last).movedim(1, -1),
        "transposed": torch.randn(12, 40).T,
        "every other row": torch.randn(80, 12)[::2],
        "every other element": torch.randn(40, 24)[:, ::2],
        "cropped images": torch.randn(3, 12, 9, 9)[:, :, 2:6, 3:8].movedim(1, -1),
        "three levels": torch.randn(4, 5, 6, 12).permute(1, 0, 2, 3)[:, ::2],
        "one row many times": torch.randn(1, 12).expand(40, 12),
        "one number many times": torch.randn(40, 1).expand(40, 12),
        "one row": torch.randn(1, 12),
        "one image": torch.randn(1, 12, 1, 1).movedim(1, -1),
    }


@pytest.mark.parametrize("layout", layouts())
def test_memory_layout_does_not_matter(layout: str) -> None:
    z = layouts()[layout]
    for codebook in (torch.randn(50, 12), torch.randn(12, 50).T, torch.randn(100, 24)[::2, ::2]):
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def test_a_codebook_for_each_head() -> None:
    z = torch.randn(2, 3, 40, 8)
    codebook = torch.randn(3, 2, 50, 8).transpose(0, 1)
    indices, distances = ops.nearest_code(z, codebook)
    for i, j in itertools.product(range(2), range(3)):
        assert_is_oracle(z[i, j], codebook[i, j], (indices[i, j], distances[i, j]))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize(("n", "k"), [(700, 40), (20, 5000), (3, 2000), (1, 9000)])
def test_threads_and_batches_do_not_matter(n: int, k: int) -> None:
    for case in ("near_ties", "duplicates", "not_finite"):
        z, codebook = CASES[case](n, k, 8)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found = ops.nearest_code(z, codebook)
            assert_is_oracle(z, codebook, found)
            halves = [ops.nearest_code(part, codebook) for part in z.tensor_split(2)]
            for whole, parts in zip(found, zip(*halves, strict=True), strict=True):
                assert torch.equal(whole.nan_to_num(-1), torch.cat(parts).nan_to_num(-1))


# Subnormal in turn: elements, their squares in fp32, their squares in fp64. Two threads share 2000
# codes and compare what each has found.
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize(("n", "k"), [(60, 80), (60, 2000), (3, 2000)])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-42, torch.float32), (1e-20, torch.float32), (1e-160, torch.float64)],
    ids=str,
)
def test_flushing_subnormals_does_not_matter(
    n: int, k: int, scale: float, dtype: torch.dtype
) -> None:
    z, codebook = (scale * x.to(dtype) for x in CASES["gaussian"](n, k, 6))
    torch.set_num_threads(2)
    indices, distances = oracle(z, codebook)
    distances = distances.to(dtype)
    assert torch.set_flush_denormal(True)
    try:
        found = ops.nearest_code(z, codebook)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found[0], indices)
    assert torch.equal(found[1], distances)


def test_special_values() -> None:
    nan, inf = torch.nan, torch.inf
    codebook = torch.tensor([[nan, 0.0], [inf, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    z = torch.tensor([[0.0, 0.0], [nan, 0.0], [-inf, 1.0], [3.0, 5.0]]).repeat(3, 1)
    indices, distances = ops.nearest_code(z, codebook)
    assert indices.tolist() == [3, 0, 0, 2] * 3
    assert torch.equal(distances.nan_to_num(-1), torch.tensor([0.0, -1.0, -1.0, 1.0] * 3))
    indices, distances = ops.nearest_code(z[:1], codebook[:2])
    assert (indices.item(), distances.item()) == (1, inf)
    indices, distances = ops.nearest_code(z[:1], codebook[:1])
    assert indices.item() == 0 and distances.isnan()


def test_fast_returns_the_distance_of_its_choice(level: str) -> None:
    z, codebook = CASES["clustered"](300, 400, 16)
    indices, distances = ops.nearest_code(z, codebook, precision="fast")
    best = oracle(z, codebook)[1]
    own = torch.stack(
        [oracle(row[None], codebook[i][None])[1][0] for row, i in zip(z, indices, strict=True)]
    )
    assert torch.equal(distances, own.float())
    # The clusters lie far apart: an fp32 score never mistakes one for another.
    assert (own - best).max() < 1e-5
    gaussian_z, gaussian_codebook = CASES["gaussian"](300, 400, 16)
    fast = ops.nearest_code(gaussian_z, gaussian_codebook, precision="fast")
    assert_is_oracle(gaussian_z, gaussian_codebook, fast)


def test_fast_handles_special_values(level: str) -> None:
    for case in ("not_finite", "no_finite_code", "all_nan", "huge", "zeros"):
        z, codebook = CASES[case](30, 40, 6)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook, precision="fast"))


def test_indices_alone() -> None:
    z, codebook = CASES["gaussian"](20, 30, 4)
    indices = ops.nearest_code(z, codebook, return_distance=False)
    assert torch.equal(indices, oracle(z, codebook)[0])


@given(data=st.data())
def test_random_problems(data: st.DataObject) -> None:
    n, k, d = (data.draw(st.integers(low, high)) for low, high in ((0, 40), (1, 70), (1, 40)))
    case = data.draw(st.sampled_from(sorted(CASES)))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    z, codebook = CASES[case](n, k, d) if n > 0 else (torch.zeros(0, d), torch.randn(k, d))
    z = z.to(data.draw(st.sampled_from(DTYPES)))
    codebook = codebook.to(data.draw(st.sampled_from(DTYPES)))
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def bad_inputs() -> dict[str, tuple[torch.Tensor, torch.Tensor, str]]:
    z, codebook = torch.zeros(5, 8), torch.zeros(7, 8)
    return {
        "D differs": (z, codebook[:, :3], r"codebook must be \(K, D\) with D = 8, got \(7, 3\)"),
        "K = 0": (z, codebook[:0], r"codebook must have at least one code, got \(0, 8\)"),
        "D = 0": (z[:, :0], codebook[:, :0], r"z must be .* with D >= 1, got \(5, 0\)"),
        "z is a row": (z[0], codebook, r"z must be \(\.\.\., N, D\), got \(8,\)"),
        "a code": (z, codebook[0], r"codebook must be \(K, D\) or .*, got \(8,\)"),
        "integer z": (z.long(), codebook, "z must be float16, bfloat16, float32 or float64, got"),
        "integer codebook": (z, codebook.int(), "codebook must be float16, bfloat16, float32 or"),
        "complex": (z, codebook.to(torch.complex64), "codebook must be float16"),
        "heads differ": (z[None], codebook.expand(2, 7, 8), r"leading sizes of z \(1, 5, 8\), got"),
        "heads missing": (z, codebook.expand(2, 7, 8), r"leading sizes of z \(5, 8\), got \(2,"),
    }


@pytest.mark.parametrize("problem", bad_inputs())
def test_bad_input_is_named(problem: str) -> None:
    z, codebook, message = bad_inputs()[problem]
    with pytest.raises(RuntimeError, match=message):
        ops.nearest_code(z, codebook)
    with pytest.raises(RuntimeError, match=message):
        ops.vector_quantize(z, codebook)
    with pytest.raises(RuntimeError, match=message):
        ops.nearest_code(z.to("meta"), codebook.to("meta"))


def test_none_is_named() -> None:
    with pytest.raises(RuntimeError, match="codebook must be a tensor, got None"):
        ops.nearest_code(torch.zeros(1, 1), None)
    with pytest.raises(RuntimeError, match="z must be a tensor, got None"):
        ops.vector_quantize(None, torch.zeros(1, 1))
    with pytest.raises(RuntimeError, match="indices must be a tensor, got None"):
        ops.codebook_stats(torch.zeros(1, 1), None, 1)


def test_bad_precision_is_named() -> None:
    with pytest.raises(ValueError, match='precision must be "exact" or "fast", got \'best\''):
        ops.nearest_code(torch.zeros(1, 1), torch.zeros(1, 1), precision="best")


def test_bad_simd_level_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQGAN_FAST_ISA", "mmx")
    with pytest.raises(RuntimeError, match=r"VQGAN_FAST_ISA must be baseline.* or .*, got mmx"):
        ops.nearest_code(torch.zeros(1, 1), torch.zeros(1, 1))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_that_the_cpu_lacks_is_refused(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = cpu_levels()
    monkeypatch.setenv("VQGAN_FAST_ISA", level)
    z, codebook = torch.zeros(1, 1), torch.zeros(1, 1)
    if level in runs:
        assert ops.nearest_code(z, codebook)[0].item() == 0
        return
    message = f"VQGAN_FAST_ISA={level}: this CPU runs {', '.join(runs[:-1])} and {runs[-1]}"
    with pytest.raises(RuntimeError, match=message):
        ops.nearest_code(z, codebook)


def test_autocast_changes_nothing() -> None:
    z, codebook = torch.randn(20, 8, dtype=torch.bfloat16), torch.randn(30, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.nearest_code(z, codebook)
    assert_is_oracle(z, codebook, found)


def test_gradient_of_the_distance() -> None:
    # Codes far apart and latents near one each: no small step changes a choice.
    codebook = (10 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    z = (codebook.detach()[[0, 3, 3, 5, 1]] + 0.1 * torch.randn(5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: ops.nearest_code(*args)[1], (z, codebook))
    heads = (z.detach()[None].repeat(2, 1, 1), codebook.detach()[None] * torch.ones(2, 1, 1))
    heads = tuple(x.requires_grad_() for x in heads)
    assert torch.autograd.gradcheck(lambda *args: ops.nearest_code(*args)[1], heads)


def test_the_gradient_of_a_difference_beyond_fp16() -> None:
    z = torch.tensor([[60000.0]], dtype=torch.float16, requires_grad=True)
    distances = ops.nearest_code(z, -z.detach())[1]
    assert torch.autograd.grad(1e-3 * distances.sum(), z)[0].item() == pytest.approx(240)


def test_no_heads() -> None:
    z, codebook = (torch.zeros(2, 0, n, 4, requires_grad=True) for n in (3, 5))
    indices, distances = ops.nearest_code(z, codebook)
    assert indices.shape == distances.shape == (2, 0, 3)
    grads = torch.autograd.grad(distances.sum(), (z, codebook))
    assert [grad.shape for grad in grads] == [z.shape, codebook.shape]


def test_gradients_of_mixed_types() -> None:
    z = torch.randn(30, 8, dtype=torch.bfloat16, requires_grad=True)
    codebook = torch.randn(20, 8, requires_grad=True)
    indices, distances = ops.nearest_code(z, codebook)
    weights = torch.randn(30)
    grads = torch.autograd.grad((weights * distances).sum(), (z, codebook))
    plain = (z.float() - codebook[indices]).square().sum(-1)
    expected = torch.autograd.grad((weights * plain).sum(), (z, codebook))
    assert grads[0].dtype == torch.bfloat16
    torch.testing.assert_close(grads[0], expected[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grads[1], expected[1])
