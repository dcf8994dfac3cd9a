"""`soft_assign` on an NVIDIA GPU against its definition on the CPU, without waiting for the GPU."""

from __future__ import annotations

import pytest
import torch

from vqgan_fast import ops
from vqgan_fast._library import CUDA_LIBRARY, load_libraries

STATUS = {status.name: status for status in load_libraries()}[CUDA_LIBRARY]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(not STATUS.loaded, reason=f"{CUDA_LIBRARY}: {STATUS.reason}"),
    pytest.mark.usefixtures("poisoned", "fresh_inputs"),
]
OUTPUTS = ops.SoftAssignment._fields


def results_and_gradients(inputs, device, **options):
    z, codebook, values, bias = (x.to(device).requires_grad_() for x in inputs)
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias, **options)
    generator = torch.Generator().manual_seed(0)
    loss = sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in found[:4])
    return [*found, *torch.autograd.grad(loss, (z, codebook, values, bias))]


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (70, 300, 33, 300), (2000, 5000, 32, 32)], ids=str)
def test_results_and_gradients_are_the_cpus(shape, dtype, seed, metric):
    n, k, d, c = shape
    scale = d**-0.25
    inputs = [(torch.randn(s) * scale).to(dtype) for s in ((n, d), (k, d), (k, c), (k,))]
    options = {"temperature": 0.7, "seed": seed, "metric": metric}
    on_cpu = results_and_gradients([x.double() for x in inputs], "cpu", **options)
    on_gpu = results_and_gradients(inputs, "cuda", **options)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 1e-2}[dtype]
    for one, other in zip(on_gpu, on_cpu, strict=True):
        if one.dtype == torch.int64:
            assert (one.cpu() == other).float().mean() >= (1 - 1e-3 if n > 1 else 1)
            continue
        error = (one.cpu().double() - other).abs().max()
        assert error <= tolerance * max(1.0, float(other.abs().max()))


def test_the_same_bits_every_time_and_no_wait():
    inputs = [torch.randn(s, device="cuda") for s in ((500, 40), (900, 40), (900, 24), (900,))]
    seed = torch.tensor(5, device="cuda")
    first = results_and_gradients(inputs, "cuda", seed=seed)
    torch.cuda.synchronize()
    for _ in range(3):
        torch.cuda.set_sync_debug_mode("error")
        try:
            z, codebook, values, bias = inputs
            found = ops.soft_assign(
                z, codebook, outputs=OUTPUTS, values=values, bias=bias, seed=seed
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(a, b) for a, b in zip(found, first[:5], strict=True))
    again = results_and_gradients(inputs, "cuda", seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_gradcheck():
    inputs = [
        torch.randn(s, device="cuda", dtype=torch.float64, requires_grad=True)
        for s in ((5, 3), (40, 3), (40, 2), (40,))
    ]

    def call(z, codebook, values, bias):
        options = {"values": values, "bias": bias, "seed": 3}
        return ops.soft_assign(z, codebook, outputs=OUTPUTS[:4], **options)[:4]

    assert torch.autograd.gradcheck(call, inputs)
