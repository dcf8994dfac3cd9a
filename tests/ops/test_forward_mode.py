"""Forward-mode derivatives: refused where torch would drop them without a word."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from vqgan_fast import ops

CALLS = {
    "nearest_code": lambda z, codebook: ops.nearest_code(z, codebook)[1],
    "vector_quantize": lambda z, codebook: ops.vector_quantize(z, codebook)[2],
    "codebook_stats": lambda z, codebook: ops.codebook_stats(
        z, torch.zeros(len(z), dtype=torch.int64), len(codebook)
    )[1],
    "soft_assign": lambda z, codebook: ops.soft_assign(z, codebook, outputs=("entropy",)).entropy,
}


@pytest.fixture(params=CALLS)
def call(request):
    return request.param, CALLS[request.param]


@pytest.fixture
def problem():
    return torch.randn(5, 3), torch.randn(4, 3)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_dual_tensors_are_refused(call, problem, requires_grad):
    name, function = call
    z, codebook = problem
    z.requires_grad_(requires_grad)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z, torch.ones_like(z))
        with pytest.raises(NotImplementedError, match=rf"{name} has no forward-mode derivative"):
            function(dual, codebook)
        function(z, codebook)  # without a tangent it runs


def test_a_tangent_of_the_codebook_counts(problem):
    z, codebook = problem
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="nearest_code"):
        ops.nearest_code(z, forward_ad.make_dual(codebook, torch.ones_like(codebook)))


def test_jvp_is_refused(call, problem):
    name, function = call
    z, codebook = problem
    with pytest.raises(NotImplementedError, match=rf"reference\.{name}, its definition"):
        torch.func.jvp(lambda x: function(x, codebook), (z,), (torch.ones_like(z),))


def test_the_definition_has_them(problem):
    z, codebook = problem

    def distance(x):
        return ops.reference.nearest_code(x, codebook, True)[1]

    found = torch.func.jvp(distance, (z,), (torch.ones_like(z),))[1]
    indices = ops.nearest_code(z, codebook, return_distance=False)
    assert torch.allclose(found, 2 * (z - codebook[indices]).sum(1), atol=1e-5)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_jvp_is_refused(call, problem, fullgraph):
    """A compiler that traces torch.func.jvp must not take the tangent for zero."""
    name, function = call
    z, codebook = problem
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=fullgraph)
    def tangent(z):
        return torch.func.jvp(lambda x: function(x, codebook), (z,), (torch.ones_like(z),))[1]

    kinds = (NotImplementedError, torch._dynamo.exc.Unsupported)
    with pytest.raises(kinds, match=rf"{name} has no forward-mode derivative"):
        tangent(z)


def test_a_compiled_search_without_a_tangent_runs_within_jvp(problem):
    z, codebook = problem
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def tangent(z):
        def function(x):
            return ops.nearest_code(x.detach(), codebook)[1] * x.sum()

        return torch.func.jvp(function, (z,), (torch.ones_like(z),))[1]

    expected = ops.nearest_code(z, codebook)[1] * z.numel()
    assert torch.allclose(tangent(z), expected)


def test_what_was_compiled_outside_of_a_level_does_not_serve_within(problem):
    z, codebook = problem
    torch._dynamo.reset()
    distance = torch.compile(lambda x: ops.nearest_code(x, codebook)[1], backend="eager")
    expected = distance(z)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z, torch.ones_like(z))
        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):
            with pytest.raises(NotImplementedError, match="nearest_code has no forward-mode"):
                distance(dual)
        else:  # which does not guard what its compiler read of forward_ad: docs/numerics.md
            assert forward_ad.unpack_dual(distance(dual)).tangent is None
    assert torch.equal(distance(z), expected)
