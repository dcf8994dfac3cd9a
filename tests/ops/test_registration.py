"""How the ops sit in torch: schemas, fake kernels, autograd, torch.compile, other devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch._inductor.config
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from vqgan_fast import ops
from vqgan_fast.ops.registration import register_fallback

# opcheck's fourth test adds up all outputs, integers first, and trips over that where a later one
# needs a gradient: it runs without any, and test_compiled_gradients covers what it would have.
WITH_GRADIENTS = ("test_schema", "test_autograd_registration", "test_faketensor")
DECODE_OPS = (
    "packed_linear",
    "layer_norm",
    "window_attention",
    "grid_attention",
    "decode_layers",
    "decode_grid_layers",
    "sample_logits",
)
OP_NAMES = (
    "nearest_code",
    "vector_quantize",
    "vector_quantize_backward",
    "codebook_stats",
    *DECODE_OPS,
    "soft_assign",
    "soft_assign_backward",
)


def calls() -> dict[str, tuple[Callable, tuple]]:
    library = torch.ops.vqgan_fast
    z, codebook = torch.randn(2, 12, 3, 4).movedim(1, -1), torch.randn(9, 12)
    indices, one = torch.randint(9, (2, 3, 4)), torch.ones(())
    heads = (torch.randn(2, 5, 4), torch.randn(2, 7, 4, dtype=torch.bfloat16))
    quantize_back = library.vector_quantize_backward.default
    return {
        "nearest_code": (library.nearest_code.default, (z, codebook, True)),
        "nearest_code, heads": (library.nearest_code.default, (*heads, False)),
        "vector_quantize": (library.vector_quantize.default, (z, codebook, True)),
        "vector_quantize, heads": (library.vector_quantize.default, (*heads, True)),
        "backward": (quantize_back, (z, one, one, z, codebook, indices, True, True)),
        "backward, part": (quantize_back, (None, one, one, z, codebook, indices, False, True)),
        "codebook_stats": (library.codebook_stats.default, (z, indices, 9)),
        **soft_assign_calls(z, codebook),
    }


def soft_assign_calls(z: Tensor, codebook: Tensor) -> dict[str, tuple[Callable, tuple]]:
    library, seed = torch.ops.vqgan_fast, torch.tensor(3)
    values, bias = torch.randn(9, 5), torch.randn(9)
    everything = (z, codebook, values, bias, seed, 0.5, True, True, True, True)
    found = library.soft_assign(*everything)
    grads = [torch.randn_like(x) for x in found[:4]]
    saved = (z, codebook, values, bias, seed, found[1], found[5], 0.5, True)
    back = library.soft_assign_backward.default
    return {
        "soft_assign": (library.soft_assign.default, everything),
        "soft_assign, part": (
            library.soft_assign.default,
            (z, codebook, None, None, None, 1.0, False, True, False, False),
        ),
        "backward of soft_assign": (back, (*grads, *saved, True, True, True, True)),
        "backward of soft_assign, part": (
            back,
            (grads[0], None, None, None, *saved, False, True, False, True),
        ),
    }


@pytest.mark.parametrize("call", calls())
def test_opcheck(call: str) -> None:
    op, arguments = calls()[call]
    torch.library.opcheck(op, arguments)
    if call.startswith("backward"):
        return
    needing = [
        x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in arguments
    ]
    torch.library.opcheck(op, needing, test_utils=WITH_GRADIENTS)


def every_op(images: Tensor, codebook: Tensor) -> Tensor:
    z = images.movedim(1, -1)
    z_q, indices, commitment_loss, codebook_loss = ops.vector_quantize(z, codebook)
    _, distances = ops.nearest_code(z, codebook)
    counts, sums = ops.codebook_stats(z, indices, codebook.shape[0])
    losses = commitment_loss + 0.25 * codebook_loss + distances.mean()
    soft = ops.soft_assign(
        z, codebook, outputs=("expected", "mean_probability", "indices"), seed=indices.sum()
    )
    losses = losses + soft.expected.square().mean() + soft.mean_probability.square().sum()
    return z_q.movedim(-1, 1).square().sum() + losses + (counts[:, None] * sums).square().mean()


# What another build of the ops left in torch's cache on disk knows the shapes of its own results.
@torch._inductor.config.patch(force_disable_caches=True)
def test_compiled_gradients() -> None:
    compiled = torch.compile(every_op, fullgraph=True)
    for batch in (2, 3):
        images = torch.randn(batch, 8, 4, 5, requires_grad=True)
        torch._dynamo.mark_dynamic(images, 0)
        codebook = torch.randn(11, 8, requires_grad=True)
        found = compiled(images, codebook)
        expected = every_op(images, codebook)
        torch.testing.assert_close(found, expected)
        for one, other in zip(
            torch.autograd.grad(found, (images, codebook)),
            torch.autograd.grad(expected, (images, codebook)),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", OP_NAMES)
def test_every_device_has_an_implementation(name: str) -> None:
    for device in ("CPU", "CUDA", "MPS", "XPU", "Meta"):
        has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
        assert has_kernel(f"vqgan_fast::{name}", device), device


def test_a_device_without_a_kernel_gets_the_definition_and_one_warning() -> None:
    torch.library.define("vqgan_fast_test::twice", "(Tensor x) -> Tensor")
    register_fallback("vqgan_fast_test::twice", lambda x: 2 * x)
    with pytest.warns(UserWarning, match="vqgan_fast has no twice kernel for cpu"):
        assert torch.ops.vqgan_fast_test.twice(torch.ones(1)).item() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.ops.vqgan_fast_test.twice(torch.ones(1)).item() == 2


def test_nearest_code_without_gradients_is_the_same() -> None:
    """Eager calls that need no gradient pass autograd by; nobody can tell but by the clock."""
    z, codebook = torch.randn(20, 4), torch.randn(50, 4)
    expected = torch.ops.vqgan_fast.nearest_code(z, codebook, True)
    differentiable = ops.nearest_code(z.clone().requires_grad_(), codebook)
    assert differentiable[1].requires_grad
    with torch.no_grad():
        held = ops.nearest_code(z, torch.nn.Parameter(codebook))
    with torch.inference_mode():
        inferred = ops.nearest_code(z.clone(), codebook)
    for found in (ops.nearest_code(z, codebook), held, inferred, differentiable):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1].detach(), expected[1])
    assert not held[1].requires_grad
    each = torch.func.vmap(lambda row: ops.nearest_code(row[None], codebook)[0])(z)
    assert torch.equal(each[:, 0], expected[0])
    with torch._subclasses.FakeTensorMode() as mode:
        fake = ops.nearest_code(mode.from_tensor(z), mode.from_tensor(codebook))
    assert fake[0].shape == (20,)


def test_codebook_stats_without_gradients_is_the_same() -> None:
    z, indices = torch.randn(20, 4), torch.randint(7, (20,))
    expected = torch.ops.vqgan_fast.codebook_stats(z, indices, 7)
    differentiable = ops.codebook_stats(z.clone().requires_grad_(), indices, 7)
    assert differentiable[1].requires_grad
    with torch.no_grad():
        held = ops.codebook_stats(torch.nn.Parameter(z), indices, 7)
    with torch.inference_mode():
        inferred = ops.codebook_stats(z.clone(), indices, 7)
    for found in (ops.codebook_stats(z, indices, 7), held, inferred, differentiable):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1].detach(), expected[1])
    assert not held[1].requires_grad
    with torch._subclasses.FakeTensorMode() as mode:
        fake = ops.codebook_stats(mode.from_tensor(z), mode.from_tensor(indices), 7)
    assert fake[1].shape == (7, 4)


# Of six latents, a number that depends on every one of them in another way.
NUMBERS = {
    "nearest_code": lambda z: (
        ops.nearest_code(z, torch.arange(28.0).view(7, 4))[1] * torch.arange(6.0)
    ).sum(),
    "codebook_stats": lambda z: (
        ops.codebook_stats(z, torch.arange(6) % 4, 7)[1] * torch.arange(28.0).view(7, 4)
    ).sum(),
    "vector_quantize": lambda z: (
        (ops.vector_quantize(z, torch.arange(28.0).view(7, 4))[0] * torch.arange(4.0)).sum()
        + 3 * ops.vector_quantize(z, torch.arange(28.0).view(7, 4))[2]
    ),
    "soft_assign": lambda z: (
        ops.soft_assign(z, torch.arange(28.0).view(7, 4), outputs=("expected",)).expected
        * torch.arange(4.0)
    ).sum(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_transformed_or_traced_keeps_its_gradient(name: str) -> None:
    """No tensor says within vmap, or while it is traced, that a gradient is asked for."""
    number = NUMBERS[name]
    z = torch.randn(3, 6, 4, requires_grad=True)
    expected = torch.stack([torch.autograd.grad(number(one), one)[0] for one in z.unbind()])
    assert torch.equal(torch.autograd.grad(torch.func.vmap(number)(z).sum(), z)[0], expected)
    traced = make_fx(number)(z[0].detach())
    one = z[1].detach().requires_grad_()
    assert torch.equal(torch.autograd.grad(traced(one), one)[0], expected[1])


@pytest.mark.parametrize("name", NUMBERS)
def test_many_gradients_at_once(name: str) -> None:
    """As `torch.autograd.functional.jacobian(vectorize=True)` takes them, of the codes as well."""
    z, codebook = torch.randn(2, 6, 4), torch.randn(2, 7, 4)
    functions = {
        "nearest_code": lambda z, codebook: ops.nearest_code(z, codebook)[1],
        "codebook_stats": lambda z, codebook: ops.codebook_stats(z, indices, 7)[1] + codebook.sum(),
        "vector_quantize": lambda z, codebook: torch.stack(ops.vector_quantize(z, codebook)[2:]),
        "soft_assign": lambda z, codebook: (
            ops.soft_assign(z, codebook[0], outputs=("expected",)).expected
        ),
    }
    indices = torch.randint(7, (2, 6))
    jacobian = torch.autograd.functional.jacobian
    found = jacobian(functions[name], (z, codebook), vectorize=True)
    expected = jacobian(functions[name], (z, codebook))
    for at_once, one_by_one in zip(found, expected, strict=True):
        assert torch.equal(at_once, one_by_one)
