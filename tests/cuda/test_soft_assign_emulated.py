"""The CUDA kernels of `soft_assign`, run by the host's compiler, against the definition."""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulated_kernels import Rows, rows_of

from vqgan_fast.ops import reference


class Arguments(ctypes.Structure):
    """SoftArguments of emulated/entry_soft_assign.cpp."""

    _fields_ = (
        *((name, ctypes.POINTER(Rows)) for name in ("z", "codebook", "values", "bias")),
        ("seed", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_codes", "dim", "value_dim")),
        ("temperature", ctypes.c_double),
        ("squared", ctypes.c_int),
        ("fp64", ctypes.c_int),
    )

    def placed(self, memory):
        for name, part in self.rows.items():
            if part is not None:
                part.placed(memory)
                setattr(self, name, ctypes.pointer(part))
        self.seed = None if self.seed_tensor is None else memory.address(self.seed_tensor)
        return ctypes.byref(self)


def rows(tensor):
    """Of a matrix or of images; a vector has rows of one element."""
    if tensor is None:
        return None
    return rows_of(tensor[:, None] if tensor.dim() == 1 else tensor)


def arguments(z, codebook, values, bias, seed, temperature, squared):
    tensors = {"z": z, "codebook": codebook, "values": values, "bias": bias}
    call = Arguments(
        num_rows=z.shape[:-1].numel(),
        num_codes=len(codebook),
        dim=z.shape[-1],
        value_dim=0 if values is None else values.shape[1],
        temperature=temperature,
        squared=squared,
        fp64=any(x is not None and x.dtype == torch.float64 for x in tensors.values()),
    )
    call.rows = {name: rows(tensor) for name, tensor in tensors.items()}
    call.seed_tensor = seed
    return call


def forward(kernels, *inputs):
    """As the op returns them, rows flat."""
    call = arguments(*inputs)
    dtype = torch.float64 if call.fp64 else torch.float32
    n, k = call.num_rows, call.num_codes
    log_sum_exp, entropy, mean = (torch.full((size,), -77.0, dtype=dtype) for size in (n, n, k))
    expected = torch.full((n, call.value_dim), -77.0, dtype=dtype)
    statistics = torch.full((n, 3), -77.0, dtype=torch.float64)
    indices = torch.full((n,), -77)
    kernels.call(
        "soft_assign",
        call,
        statistics,
        rows(log_sum_exp),
        rows(entropy),
        rows(expected) if call.value_dim else None,
        indices,
        rows(mean),
    )
    return log_sum_exp, expected, entropy, mean, indices, statistics


def backward(kernels, grads, inputs, found):
    """Gradients by z, codebook, values and bias, as the definition returns them."""
    z, codebook, values, bias, *_ = inputs
    call = arguments(*inputs)
    of_lse, of_expected, of_entropy, of_mean = grads
    results = [None if x is None else torch.full_like(x, -77) for x in (z, codebook, values, bias)]
    kernels.call(
        "soft_assign_backward",
        call,
        found[5],
        rows(of_lse),
        rows(of_expected) if call.value_dim else None,
        rows(of_entropy),
        rows(of_mean),
        *map(rows, results),
    )
    return results


def assert_near(found, expected, tolerance):
    found, expected = found.double().reshape(expected.shape), expected.double()
    if expected.numel() == 0:
        return
    assert torch.equal(found.isnan(), expected.isnan())
    error = (found - expected).nan_to_num().abs().max()
    assert error <= tolerance * max(1.0, float(expected.nan_to_num().abs().max()))


def check(kernels, inputs, tolerance):
    expected = reference.soft_assign(*inputs, True, True, True)
    found = forward(kernels, *inputs)
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert_near(one, other, tolerance)
    assert torch.equal(found[4], expected[4].flatten())
    weights = [torch.randn(x.shape) for x in found[:4]]
    if inputs[2] is None:
        weights[1] = None
    shaped = [
        None if w is None else w.reshape(x.shape)
        for w, x in zip(weights, expected[:4], strict=True)
    ]
    saved = (expected[1], expected[5], *inputs[5:])
    gradients = reference.soft_assign_backward(*shaped, *inputs[:5], *saved, *[True] * 4)
    for one, other in zip(backward(kernels, weights, inputs, found), gradients, strict=True):
        if one is not None:
            assert_near(one, other, 2 * tolerance)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("case", ["offset", "cold"])
def test_an_offset_or_a_low_temperature_costs_no_accuracy(kernels, case, squared):
    z, codebook, values, bias = problem(40, 70, 9, 5)
    if case == "offset":
        z, codebook, values = z + 3, codebook + 3, values + 3
    temperature = 0.7 if case == "offset" else 0.01
    check(kernels, (z, codebook, values, bias, None, temperature, squared), 1e-5)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("temperature", [0.7, 1e39])
def test_norms_that_leave_fp32(kernels, temperature, squared):
    """Elements do not, but their squares do, which decide whether fp32 will do for the logits."""
    z, codebook, values, _ = problem(40, 70, 9, 5)
    inputs = (1e20 * z, 1e20 * codebook, values, None, None, temperature, squared)
    if temperature > 1:
        return check(kernels, inputs, 1e-5)
    expected, found = reference.soft_assign(*inputs, True, True, True), forward(kernels, *inputs)
    assert_near(found[1], expected[1], 1e-5)
    assert torch.equal(found[4], expected[4].flatten())


def test_a_bias_that_leaves_fp32(kernels):
    """Divided by the temperature; and -0, whose bits are above those of all positive numbers."""
    z, codebook, values, bias = problem(40, 70, 9, 5)
    bias.fill_(-0.0)[3] = 3e38
    inputs = (z, codebook, values, bias, None, 0.7, False)
    expected, found = reference.soft_assign(*inputs, True, True, True), forward(kernels, *inputs)
    assert_near(found[1], expected[1], 1e-5)
    assert (found[4] == 3).all()


@pytest.mark.parametrize("squared", [True, False])
def test_latents_that_are_sure_of_their_codes(kernels, squared):
    """Of which the gradient of `expected` is a small difference of large products."""
    codebook, values, weights = torch.randn(70, 8), torch.randn(70, 5), torch.randn(40, 5)
    codebook *= 5 / codebook.norm(dim=1, keepdim=True)  # logits for which fp32 will do
    z = codebook[torch.randint(70, (40,))]
    inputs = (z, codebook, values, torch.zeros(70), None, 1.0, squared)
    expected = reference.soft_assign(*inputs, True, True, True)
    assert (expected[2] < 1e-3).sum() >= 3  # entropies
    grads = (None, weights, None, torch.zeros(70))
    saved = (expected[1], expected[5], *inputs[5:])
    wanted = reference.soft_assign_backward(*grads, *inputs[:5], *saved, *[True] * 4)
    found = backward(
        kernels, (torch.zeros(40), weights, torch.zeros(40), grads[3]), inputs, expected
    )
    size, difference = (x.double().norm(dim=1) for x in (wanted[0], found[0] - wanted[0]))
    assert (difference <= 1e-4 * size + 1e-12).all()
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def problem(n, k, d, c, dtype=torch.float32):
    scale = d**-0.25
    return [(torch.randn(shape) * scale).to(dtype) for shape in ((n, d), (k, d), (k, c), (k,))]


SHAPES = [(1, 1, 1, 1), (33, 65, 9, 31), (70, 31, 33, 3), (5, 40, 3, 300)]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_definition(kernels, shape, dtype, squared):
    check(
        kernels,
        (*problem(*shape, dtype), None, 0.7, squared),
        1e-5 if dtype == torch.float32 else 1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise(kernels, dtype):
    seed = torch.tensor(-12345678901)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    check(kernels, (*problem(37, 70, 5, 4, dtype), seed, 0.5, True), tolerance)


def test_without_values_and_bias(kernels):
    z, codebook, _, _ = problem(20, 50, 6, 1)
    check(kernels, (z, codebook, None, None, None, 1.0, True), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_inputs(kernels, dtype):
    z, codebook, values, bias = problem(20, 50, 6, 5, dtype)
    inputs = (z, codebook, values, bias, None, 1.0, True)
    for one, other in zip(
        forward(kernels, *inputs), reference.soft_assign(*inputs, True, True, True), strict=True
    ):
        assert_near(one, other, 1e-5)


@pytest.mark.parametrize(("d", "c"), [(7, 6), (43, 270)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_images_and_strides_are_read_in_place(kernels, dtype, d, c):
    z = torch.randn(2, d, 4, 5, dtype=dtype).movedim(1, -1) * d**-0.25
    codebook = torch.randn(2 * d, 80, dtype=dtype).T[::2, ::2] * d**-0.25
    values, bias = torch.randn(c, 40, dtype=dtype).T, torch.randn(40, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    check(kernels, (z, codebook, values, bias, torch.tensor(3), 1.0, True), tolerance)


def test_masked_codes_and_values_that_are_not_finite(kernels):
    z, codebook, values, bias = problem(40, 100, 4, 4)
    bias[:70] = -torch.inf  # whole tiles
    bias[80] = -torch.inf
    check(kernels, (z, codebook, values, bias, None, 1.0, False), 1e-5)
    z[3, 1], z[5, 0] = torch.nan, torch.inf
    inputs = (z, codebook, values, bias, None, 1.0, True)
    found = forward(kernels, *inputs)
    assert found[0][[3, 5]].isnan().all() and (found[4][[3, 5]] == 0).all()
    assert found[0].isnan().sum() == 2 and found[3][~bias.isinf()].isnan().all()


@pytest.mark.parametrize("schedule", [0, 1, 2, 3])
def test_no_order_of_threads_matters(kernels, schedule):
    torch.manual_seed(0)
    inputs = (*problem(40, 70, 35, 40), torch.tensor(9), 0.7, True)
    plain = forward(kernels, *inputs)
    weights = [torch.randn(x.shape) for x in plain[:4]]
    gradients = backward(kernels, weights, inputs, plain)
    kernels.emulate(schedule=schedule)
    shuffled = forward(kernels, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, shuffled, strict=True))
    again = backward(kernels, weights, inputs, shuffled)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


def test_ties_go_to_the_lowest_code(kernels):
    codebook = torch.randn(9, 4)[torch.arange(100) % 9]
    found = forward(kernels, codebook[:9].clone(), codebook, None, None, None, 1.0, True)
    assert torch.equal(found[4], torch.arange(9))
