from __future__ import annotations

import decode_oracle
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqgan_fast import ops
from vqgan_fast.ops import reference

DTYPES = ("float32", "bfloat16", "int8")
SIZES = ((1, 1), (5, 3), (31, 63), (32, 64), (33, 65), (70, 200), (96, 768))
ROWS = (1, 2, 3, 4, 5, 6, 7, 12, 13, 49)


def held(packed: ops.PackedWeight) -> Tensor:
    """The weight (N, K) without its scales."""
    return ops.unpack_linear(packed._replace(scales=None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_is_undone_by_unpacking(dtype: str) -> None:
    for n, k in SIZES:
        weight = torch.randn(n, k)
        unpacked = ops.unpack_linear(ops.pack_linear(weight, dtype))
        if dtype == "int8":
            unit = weight.abs().amax(1, keepdim=True) / 127
            assert ((unpacked - weight).abs() <= 0.501 * unit).all()
        else:
            assert torch.equal(unpacked, weight.to(getattr(torch, dtype)).float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_definition_to_the_bit(dtype: str, level: str) -> None:
    for n, k in ((3, 70), (33, 64), (35, 130)):
        x, bias = torch.randn(2, k), torch.randn(n)
        packed = ops.pack_linear(torch.randn(n, k), dtype)
        expected = decode_oracle.linear(x, held(packed), bias, packed.scales)
        assert torch.equal(ops.packed_linear(x, packed, bias), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_a_row_is_the_same_bits_alone_and_among_others(
    n: int, k: int, dtype: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = ops.pack_linear(torch.randn(n, k), dtype)
    x, bias = torch.randn(max(ROWS), k), torch.randn(n)
    monkeypatch.setenv("VQGAN_FAST_ISA", "baseline")
    alone = torch.cat([ops.packed_linear(row[None], packed, bias, "gelu") for row in x[:7]])
    monkeypatch.setenv("VQGAN_FAST_ISA", level)
    for rows in ROWS:
        found = ops.packed_linear(x[:rows], packed, bias, "gelu")
        assert torch.equal(found[:7], alone[:rows]), rows
    assert torch.equal(ops.packed_linear(x.flip(0), packed, bias, "gelu").flip(0)[:7], alone)


@pytest.mark.usefixtures("restore_threads")
def test_threads_change_nothing() -> None:
    x, packed = torch.randn(9, 300), ops.pack_linear(torch.randn(700, 300))
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(ops.packed_linear(x, packed))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_within_its_bound(dtype: str, level: str) -> None:
    for n, k in SIZES:
        x, bias = torch.randn(7, k), torch.randn(n)
        packed = ops.pack_linear(torch.randn(n, k), dtype)
        weight = ops.unpack_linear(packed).double()
        exact = x.double() @ weight.T + bias.double()
        magnitude = x.double().abs() @ weight.abs().T + bias.double().abs()
        roundings = min(k, 64) + k // 64 + 3
        error = (ops.packed_linear(x, packed, bias).double() - exact).abs()
        assert (error <= roundings * 2.0**-24 * magnitude).all()
        plain = reference.packed_linear(x, *packed[:2], bias, n, False)
        torch.testing.assert_close(ops.packed_linear(x, packed, bias), plain, rtol=1e-4, atol=1e-4)


def test_gelu_is_as_good_as_torchs(level: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, 40001), torch.tensor([1e-30, 3e38, float("inf")])])
    one = ops.pack_linear(torch.ones(1, 1))
    found = ops.packed_linear(x[:, None], one, activation="gelu").flatten()
    exact = F.gelu(x.double())
    limit = 1e-7 * x.abs().clamp(1e-3, 1)
    near = x.isfinite() & (x.abs() < 100)
    assert ((found - exact).abs()[near] <= limit[near] + 2.0**-23 * exact.abs()[near]).all()
    assert torch.equal(found[x >= 6], x[x >= 6])
    assert ops.packed_linear(torch.tensor([[float("nan")]]), one, activation="gelu").isnan().all()


def test_values_that_are_not_finite_stay_in_their_row(level: str) -> None:
    x = torch.randn(5, 90)
    x[1, 3], x[3, 70] = float("nan"), float("inf")
    y = ops.packed_linear(x, ops.pack_linear(torch.rand(40, 90) + 1))
    assert y[1].isnan().all() and (y[3] == float("inf")).all()
    assert y[[0, 2, 4]].isfinite().all()


def test_layouts_and_no_rows() -> None:
    packed, bias = ops.pack_linear(torch.randn(9, 20).T.contiguous().T), torch.randn(18)[::2]
    x = torch.randn(20, 6).T
    expected = ops.packed_linear(x.contiguous(), packed, bias.contiguous())
    assert torch.equal(ops.packed_linear(x, packed, bias), expected)
    assert ops.packed_linear(x[:0], packed).shape == (0, 9)


def bad_calls() -> dict[str, tuple]:
    x, packed = torch.zeros(2, 8), ops.pack_linear(torch.zeros(5, 8))
    return {
        "K": ((x[:, :7], packed), r"packed by pack_linear for K = 7 and N = 5"),
        "x is a row": ((x[0], packed), r"x must be \(R, K\) float32, got \(8,\)"),
        "fp64": ((x.double(), packed), r"x must be \(R, K\) float32, got \(2, 8\) of"),
        "bias": ((x, packed, torch.zeros(4)), r"bias must be \(N,\) float32, got \(4,\)"),
        "not packed": ((x, (torch.zeros(5, 8), None, 5)), "packed by pack_linear"),
        "no scales": ((x, packed._replace(weight=packed.weight.char())), "scales must come with"),
        "activation": ((x, packed, None, "relu"), 'activation must be None or "gelu", got \'relu'),
    }


@pytest.mark.parametrize("problem", bad_calls())
def test_bad_input_is_named(problem: str) -> None:
    arguments, message = bad_calls()[problem]
    with pytest.raises((RuntimeError, ValueError), match=message):
        ops.packed_linear(*arguments)


def test_bad_weights_are_named() -> None:
    with pytest.raises(ValueError, match='dtype must be "float32", "bfloat16" or "int8"'):
        ops.pack_linear(torch.zeros(2, 2), "float16")
    for weight in (torch.zeros(2), torch.zeros(0, 3), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"weight must be \(N, K\) of a floating dtype"):
            ops.pack_linear(weight)
    with pytest.raises(ValueError, match="weight must be finite to be held in int8"):
        ops.pack_linear(torch.full((2, 2), float("nan")), "int8")


def test_what_is_no_tensor_or_not_packed_is_named() -> None:
    x, packed = torch.zeros(2, 8), ops.pack_linear(torch.zeros(5, 8))
    for arguments, message in (
        ((x.numpy(), packed), r"x must be a torch\.Tensor, got numpy\.ndarray"),
        ((x, packed, [0.0] * 5), r"bias must be a torch\.Tensor, got builtins\.list"),
        ((x, torch.zeros(3, 8)), "packed must be a PackedWeight, as pack_linear .* got Tensor"),
        ((x, torch.nn.Linear(8, 5)), "packed must be a PackedWeight, .* got Linear"),
    ):
        with pytest.raises(TypeError, match=message):
            ops.packed_linear(*arguments)
    with pytest.raises(TypeError, match=r"packed must be a PackedWeight, .* got Tensor"):
        ops.unpack_linear(torch.zeros(5, 8))
    for weight, kind in ((x.numpy(), "numpy.ndarray"), (x.tolist(), "list"), (None, "None")):
        with pytest.raises(TypeError, match=rf"weight must be a torch\.Tensor, got .*{kind}"):
            ops.pack_linear(weight)


def test_results_have_no_gradients() -> None:
    x = torch.randn(2, 8, requires_grad=True)
    assert not ops.packed_linear(x, ops.pack_linear(torch.zeros(5, 8))).requires_grad
