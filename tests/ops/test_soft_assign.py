"""`soft_assign` against the dense formula, which plain torch differentiates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqgan_fast import _native, ops
from vqgan_fast.ops import reference
from vqgan_fast.ops.reference.soft_assign import gumbel_noise

# No loop has a form of its own for avx512vnni.
LEVELS = [x for x in _native.build_info()["simd_compiled"] if x != "avx512vnni"]
OUTPUTS = ops.SoftAssignment._fields
SMOOTH = OUTPUTS[:4]
# Of results of size 1: what plain torch's dense formula reaches as well.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    detected = _native.cpu_features()["detected"].replace("avx512vnni", "avx512")
    if LEVELS.index(request.param) > LEVELS.index(detected):
        pytest.skip(f"this CPU does not run {request.param}")
    monkeypatch.setenv("VQGAN_FAST_ISA", request.param)
    return request.param


def dense(
    z: Tensor,
    codebook: Tensor,
    values: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    metric: str = "l2",
    seed: int | None = None,
) -> ops.SoftAssignment:
    """The formulas of the docstring, N x K and all."""
    rows = z.reshape(-1, z.shape[-1])
    dot = metric == "dot"
    scores = rows @ codebook.T if dot else -(rows[:, None] - codebook).square().sum(-1)
    if bias is not None:
        scores = scores + bias
    if seed is not None:
        noise = gumbel_noise(torch.tensor(seed), torch.arange(len(rows)), len(codebook))
        scores = scores + noise.to(scores)
    logits = scores / temperature
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    shape = z.shape[:-1]
    expected = p @ (codebook if values is None else values)
    return ops.SoftAssignment(
        logits.logsumexp(1).reshape(shape),
        expected.reshape(*shape, -1),
        -(p * log_p).sum(1).reshape(shape),
        p.mean(0),
        logits.argmax(1).reshape(shape),
    )


def problem(
    n: int, k: int, d: int, c: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, codebook, values and bias whose softmax is neither flat nor one code."""
    scale = d**-0.25  # dot products and distances of size 1
    shapes = ((n, d), (k, d), (k, c), (k,))
    return tuple((torch.randn(shape) * scale).to(dtype) for shape in shapes)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def gradients(outputs: ops.SoftAssignment, weights: list[Tensor], inputs: list[Tensor]) -> list:
    loss = sum((out * w.to(out.dtype)).sum() for out, w in zip(outputs[:4], weights, strict=True))
    return torch.autograd.grad(loss, inputs)


SHAPES = [(1, 1, 1, 1), (5, 7, 3, 2), (13, 65, 9, 17), (49, 257, 31, 16), (110, 520, 33, 8)]


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("seed", [None, 5, -(2**62)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_the_dense_formula(
    shape: tuple, dtype: torch.dtype, seed: int | None, metric: str, level: str
) -> None:
    inputs = [x.requires_grad_() for x in problem(*shape, dtype)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    z, codebook, values, bias = inputs
    options = {"temperature": 0.7, "metric": metric, "seed": seed}
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias, **options)
    expected = dense(*wide, **options)
    for name, one, other in zip(SMOOTH, found[:4], expected[:4], strict=True):
        assert one.dtype == dtype, name
        assert_near(one, other, TOLERANCE[dtype])
    assert torch.equal(found.indices, expected.indices)
    weights = [torch.randn(out.shape) for out in expected[:4]]
    for one, other in zip(
        gradients(found, weights, inputs), gradients(expected, weights, wide), strict=True
    ):
        assert one.dtype == dtype
        assert_near(one, other, 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("output", SMOOTH)
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_gradcheck(output: str, metric: str) -> None:
    inputs = [x.requires_grad_() for x in problem(5, 7, 3, 2, torch.float64)]

    def call(z: Tensor, codebook: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        values = values if output == "expected" else None
        options = {"outputs": (output,), "metric": metric, "temperature": 0.8, "seed": 3}
        assigned = ops.soft_assign(z, codebook, values=values, bias=bias, **options)
        return getattr(assigned, output)

    assert torch.autograd.gradcheck(call, inputs)


def test_a_codebook_that_is_also_the_values_gets_both_gradients() -> None:
    z, codebook, *_ = (x.requires_grad_() for x in problem(9, 20, 4, 4, torch.float64))
    found = ops.soft_assign(z, codebook, outputs=("expected",)).expected
    expected = dense(z, codebook).expected
    weights = torch.randn(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (z, codebook)),
        torch.autograd.grad((expected * weights).sum(), (z, codebook)),
        strict=True,
    ):
        assert_near(one, other, 1e-12)


@pytest.mark.parametrize("needed", range(4))
@pytest.mark.parametrize("output", SMOOTH)
def test_each_gradient_alone(needed: int, output: str) -> None:
    inputs = list(problem(14, 30, 5, 3, torch.float64))
    inputs[needed].requires_grad_()
    if output != "expected" and needed == 2:
        return  # no other output depends on the values
    values = inputs[2] if output == "expected" else None
    z, codebook, _, bias = inputs
    assigned = ops.soft_assign(z, codebook, outputs=(output,), values=values, bias=bias)
    expected = dense(*inputs)
    weights = torch.randn(getattr(expected, output).shape)
    found, other = (
        torch.autograd.grad((getattr(x, output) * weights).sum(), inputs[needed])[0]
        for x in (assigned, expected)
    )
    assert_near(found, other, 1e-12)


def test_only_what_is_asked_for_is_given() -> None:
    z, codebook, _, _ = problem(4, 6, 3, 2)
    everything = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    for name in OUTPUTS:
        alone = ops.soft_assign(z, codebook, outputs=(name,))
        assert [x is not None for x in alone] == [x == name for x in OUTPUTS]
        assert torch.equal(getattr(alone, name), getattr(everything, name))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("seed", [None, 1])
def test_the_same_bits_at_every_thread_count(seed: int | None, level: str) -> None:
    inputs = [x.requires_grad_() for x in problem(333, 700, 40, 24)]
    z, codebook, values, bias = inputs
    weights = [torch.randn(n) for n in (333, (333, 24), 333, 700)]
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found = ops.soft_assign(
            z, codebook, outputs=OUTPUTS, values=values, bias=bias, seed=seed, temperature=0.5
        )
        results.append([*found, *gradients(found, weights, inputs)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_read_without_loss(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in problem(30, 50, 8, 8, dtype)]
    z, codebook, values, bias = inputs
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = dense(*wide)
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert one.dtype == torch.float32
        assert_near(one, other, 1e-5)
    weights = [torch.randn(out.shape) for out in expected[:4]]
    for one, other in zip(
        gradients(found, weights, inputs), gradients(expected, weights, wide), strict=True
    ):
        assert one.dtype == dtype
        assert_near(one, other, 1e-2 if dtype == torch.bfloat16 else 2e-3)


def test_memory_layouts_are_read_in_place() -> None:
    images, codebook = torch.randn(2, 6, 4, 5), torch.randn(12, 40).T[:, ::2]
    z = images.movedim(1, -1).requires_grad_()
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, seed=7, temperature=2.0)
    plain = ops.soft_assign(
        z.contiguous(), codebook.contiguous(), outputs=OUTPUTS, seed=7, temperature=2.0
    )
    assert found.expected.shape == (2, 4, 5, 6) and found.indices.shape == (2, 4, 5)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    (gradient,) = torch.autograd.grad(found.expected.square().sum(), z)
    (other,) = torch.autograd.grad(plain.expected.square().sum(), z)
    assert torch.equal(gradient, other) and gradient.stride() == z.stride()


def test_no_latents() -> None:
    z, codebook = torch.zeros(0, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    assert [tuple(x.shape) for x in found] == [(0,), (0, 4), (0,), (5,), (0,)]
    assert found.mean_probability.isnan().all()
    grads = torch.autograd.grad(found.expected.sum() + found.entropy.sum(), (z, codebook))
    assert grads[0].shape == (0, 4) and torch.equal(grads[1], torch.zeros(5, 4))


def test_ties_go_to_the_lowest_code() -> None:
    codebook = torch.randn(9, 4)[torch.arange(1000) % 9]
    found = ops.soft_assign(codebook[:9].clone(), codebook, outputs=("indices",)).indices
    assert torch.equal(found, torch.arange(9))


def test_a_bias_of_minus_infinity_takes_codes_out(level: str) -> None:
    z, codebook, values, bias = problem(20, 600, 5, 3)
    kept = torch.arange(600) % 7 == 3
    kept[:300] = False  # whole blocks of codes
    found = ops.soft_assign(
        z,
        codebook,
        outputs=OUTPUTS,
        values=values,
        bias=bias.masked_fill(~kept, -torch.inf),
    )
    alone = dense(*(x.double() for x in (z, codebook[kept], values[kept], bias[kept])))
    for name in ("log_sum_exp", "expected", "entropy"):
        assert_near(getattr(found, name), getattr(alone, name), 1e-5)
    assert_near(found.mean_probability[kept], alone.mean_probability, 1e-5)
    assert (found.mean_probability[~kept] == 0).all()
    assert torch.equal(found.indices, kept.nonzero()[:, 0][alone.indices])


def test_masked_codes_get_no_gradient() -> None:
    inputs = [x.requires_grad_() for x in problem(20, 300, 5, 3)]
    z, codebook, values, bias = inputs
    mask = torch.zeros(300).index_fill_(0, torch.arange(0, 300, 2), -torch.inf)
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias + mask)
    grads = gradients(found, [torch.randn(x.shape) for x in found[:4]], inputs)
    assert all(g.isfinite().all() for g in grads)
    assert all((g[::2] == 0).all() and (g[1::2] != 0).any() for g in grads[1:])


def test_values_that_are_not_finite() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    z[3, 1], z[5, 0] = torch.nan, torch.inf
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    bad = torch.zeros(20, dtype=torch.bool).index_fill_(0, torch.tensor([3, 5]), True)
    for name in ("log_sum_exp", "expected", "entropy"):
        values = getattr(found, name).reshape(20, -1)
        assert values[bad].isnan().all() and values[~bad].isfinite().all(), name
    assert (found.indices[bad] == 0).all()
    assert found.mean_probability.isnan().all()
    nothing = torch.full((30,), -torch.inf)
    empty = ops.soft_assign(z[:2], codebook, outputs=OUTPUTS, bias=nothing)
    assert (empty.log_sum_exp == -torch.inf).all() and empty.expected.isnan().all()
    assert (empty.indices == 0).all()


def test_extreme_temperatures(level: str) -> None:
    z, codebook, *_ = problem(40, 500, 6, 6)
    cold = ops.soft_assign(z, codebook, outputs=OUTPUTS, temperature=1e-6)
    indices = ops.nearest_code(z, codebook, return_distance=False)
    assert torch.equal(cold.indices, indices)
    assert_near(cold.expected, codebook[indices], 1e-5)
    assert_near(cold.entropy, torch.zeros(40), 1e-5)
    hot = ops.soft_assign(z, codebook, outputs=OUTPUTS, temperature=1e9)
    assert_near(hot.expected, codebook.mean(0).expand(40, -1), 1e-5)
    assert_near(hot.entropy, torch.full((40,), 500.0).log(), 1e-5)


def test_the_exponential_keeps_its_bound(level: str) -> None:
    """p of the second of two codes is exp(x) / (1 + exp(x)); docs/soft_assign.md states 1e-7."""
    x = -torch.cat([torch.linspace(0, 87, 50001), torch.logspace(-8, 1.9, 10001)])
    found = ops.soft_assign(
        x[:, None],
        torch.tensor([[0.0], [1.0]]),
        outputs=("expected",),
        metric="dot",
        values=torch.tensor([[0.0], [1.0]]),
    ).expected[:, 0]
    expected = x.double().sigmoid()
    error = (found.double() - expected).abs() / expected
    # Rounding the sum, the quotient and the result adds to the bound.
    assert error.max() <= 1e-7 + 2 * 2**-24


@pytest.mark.parametrize("seed", [0, 12345678901, -1])
def test_the_noise_is_the_definitions(seed: int, level: str) -> None:
    """With scores of 0 and one code left at a time, log_sum_exp is the noise itself."""
    k = 70
    z, codebook = torch.zeros(300, 1), torch.zeros(k, 1)
    expected = gumbel_noise(torch.tensor(seed), torch.arange(300), k)
    for code in (0, 1, 2, 3, 4, 37, 69):
        bias = torch.full((k,), -torch.inf).index_fill_(0, torch.tensor([code]), 0.0)
        found = ops.soft_assign(z, codebook, outputs=("log_sum_exp",), bias=bias, seed=seed)
        assert_near(found.log_sum_exp, expected[:, code], 3e-6 / float(expected.abs().max()))


def test_draws_have_the_softmaxs_probabilities() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, -torch.inf])
    n = 200_000
    found = ops.soft_assign(
        torch.zeros(n, 1),
        torch.zeros(5, 1),
        outputs=("indices",),
        bias=scores,
        seed=11,
        temperature=0.3,  # which a draw does not depend on
    ).indices
    p = scores.softmax(0)
    frequency = torch.bincount(found, minlength=5) / n
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()
    again = ops.soft_assign(
        torch.zeros(n, 1), torch.zeros(5, 1), outputs=("indices",), bias=scores, seed=12
    ).indices
    assert (again != found).float().mean() > 0.3


def test_a_seed_may_be_a_tensor() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    one = ops.soft_assign(z, codebook, outputs=("indices",), seed=2**63 + 5).indices
    other = ops.soft_assign(
        z, codebook, outputs=("indices",), seed=torch.tensor([5 - 2**63])
    ).indices
    assert torch.equal(one, other)


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_the_plain_torch_definition(metric: str) -> None:
    inputs = list(problem(9, 20, 4, 3, torch.float64))
    squared, seed = metric == "l2", torch.tensor(4)
    flags = (0.7, squared, True, True, True)
    found = reference.soft_assign(*inputs, seed, *flags)
    expected = torch.ops.vqgan_fast.soft_assign(*inputs, seed, *flags)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert_near(one, other, 1e-12)
    grads = [torch.randn(x.shape, dtype=torch.float64) for x in found[:4]]
    saved = (*inputs, seed, found[1], found[2], found[5], 0.7, squared, True, True, True, True)
    for one, other in zip(
        reference.soft_assign_backward(*grads, *saved),
        torch.ops.vqgan_fast.soft_assign_backward(*grads, *saved),
        strict=True,
    ):
        assert_near(one, other, 1e-12)


def test_autocast_changes_nothing() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    plain = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_it_can_be_differentiated_once() -> None:
    z, codebook, *_ = (x.requires_grad_() for x in problem(4, 5, 3, 3))
    entropy = ops.soft_assign(z, codebook, outputs=("entropy",)).entropy
    (gradient,) = torch.autograd.grad(entropy.sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="soft_assign can be differentiated once, not twice"):
        torch.autograd.grad(gradient.sum(), z)


def bad_inputs() -> dict[str, tuple[dict, type, str]]:
    z, codebook = torch.zeros(5, 8), torch.zeros(9, 8)
    default = {"z": z, "codebook": codebook, "outputs": ("expected",)}
    cases = {
        "metric": (
            {"metric": "cosine"},
            ValueError,
            'metric must be "l2" or "dot", got \'cosine\'',
        ),
        "outputs": ({"outputs": ("lse",)}, ValueError, r"among log_sum_exp, .*, got \['lse'\]"),
        "no output": ({"outputs": ()}, ValueError, "outputs must be among .*, got none"),
        "one string": ({"outputs": "entropy"}, ValueError, "must be a collection such as"),
        "unused values": (
            {"outputs": ("entropy",), "values": codebook},
            ValueError,
            'values are used by the output "expected" alone',
        ),
        "temperature": ({"temperature": 0.0}, RuntimeError, "must be positive and finite, got 0"),
        "NaN": ({"temperature": float("nan")}, RuntimeError, "must be positive and finite, got"),
        "D": ({"codebook": torch.zeros(9, 7)}, RuntimeError, r"with D = 8, got \(9, 7\)"),
        "heads": (
            {"codebook": torch.zeros(2, 9, 8)},
            RuntimeError,
            r"must be \(K, D\), got \(2, 9",
        ),
        "no codes": ({"codebook": codebook[:0]}, RuntimeError, "at least one code"),
        "integers": ({"z": z.long()}, RuntimeError, "z must be float16, bfloat16, float32 or"),
        "values": ({"values": torch.zeros(8, 3)}, RuntimeError, r"\(K, C\) with K = 9 .*\(8, 3\)"),
        "no columns": ({"values": torch.zeros(9, 0)}, RuntimeError, r"C >= 1, got \(9, 0\)"),
        "bias": ({"bias": torch.zeros(9, 1)}, RuntimeError, r"bias must be \(K,\) with K = 9"),
        "bias type": ({"bias": torch.zeros(9).long()}, RuntimeError, "bias must be float16"),
        "seed": ({"seed": torch.zeros(2).long()}, RuntimeError, r"seed must be one int64, got"),
        "seed type": ({"seed": torch.zeros(())}, RuntimeError, "seed must be one int64, got Float"),
    }
    return {name: ({**default, **args}, *rest) for name, (args, *rest) in cases.items()}


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_named(case: str) -> None:
    arguments, error, message = bad_inputs()[case]
    with pytest.raises(error, match=message):
        ops.soft_assign(**arguments)


@pytest.mark.parametrize("case", [x for x, (_, e, _) in bad_inputs().items() if e is RuntimeError])
def test_the_fake_kernel_and_the_definition_say_the_same(case: str) -> None:
    arguments, _, message = bad_inputs()[case]
    on_meta = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    message = message.replace("Float", "torch.float")
    with pytest.raises(ValueError, match=message):
        ops.soft_assign(**on_meta)
