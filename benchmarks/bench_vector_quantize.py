"""`vector_quantize` with its backward pass beside the reference's expressions; its peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from quantizer_steps import STEPS
from torch import Tensor

from vqgan_fast import ops

SHAPES = [(16, 256, 16, 1024), (16, 64, 16, 16384), (4, 4, 64, 8192)]


def peak_memory(*arguments: str) -> dict[str, int]:
    """What peak_memory.py measures, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def reference_step(images: Tensor, codebook: Tensor) -> Tensor:
    """The loss as VQGAN's quantiser writes it, with the latents made channels-last first."""
    z = images.movedim(1, -1).contiguous()
    flat = z.view(-1, z.shape[-1])
    norms = (flat**2).sum(dim=1, keepdim=True) + (codebook**2).sum(dim=1)
    indices = torch.argmin(norms - 2 * torch.einsum("bd,dn->bn", flat, codebook.t()), dim=1)
    codes = codebook[indices].view(z.shape)
    loss = 0.25 * ((codes.detach() - z) ** 2).mean() + ((codes - z.detach()) ** 2).mean()
    z_q = z + (codes - z).detach()
    return loss + z_q.movedim(-1, 1).contiguous().mean()


def our_step(images: Tensor, codebook: Tensor) -> Tensor:
    z_q, _, commitment_loss, codebook_loss = ops.vector_quantize(images.movedim(1, -1), codebook)
    return 0.25 * commitment_loss + codebook_loss + z_q.mean()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_step(shape: tuple[int, int, int, int], threads: int, compare: Callable) -> None:
    batch, dim, side, num_codes = shape
    torch.manual_seed(0)
    images = torch.randn(batch, dim, side, side, requires_grad=True)
    codebook = torch.randn(num_codes, dim, requires_grad=True)

    def gradients(step: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(step(images, codebook), (images, codebook))

    for one, other in zip(gradients(our_step), gradients(reference_step), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    rows = batch * side * side
    compare(
        "vector_quantize fwd+bwd of images",
        (rows, num_codes, dim),
        lambda: gradients(our_step),
        peers={"reference": lambda: gradients(reference_step)},
        variants={
            "forward alone": lambda: ops.vector_quantize(images.movedim(1, -1), codebook),
        },
        gflop=2e-9 * rows * num_codes * dim,
    )


@pytest.mark.parametrize("dim", [256, 8])
def test_whole_quantizer(dim: int, threads: int, compare: Callable) -> None:
    """VectorQuantizer in training, forward and backward, beside other quantisers' modules."""
    batch, side, num_codes = 8, 16, 16384
    torch.manual_seed(0)
    codebook = torch.randn(num_codes, dim)
    latents = torch.randn(batch, dim, side, side, requires_grad=True)
    steps = {name: make(codebook) for name, make in STEPS.items()}
    own = steps["ours"](latents)
    if "VectorQuantizer2" in steps:
        for one, other in zip(own, steps["VectorQuantizer2"](latents), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    calls = {name: lambda step=step: step(latents) for name, step in steps.items()}
    compare(
        "VectorQuantizer, training step",
        (batch * side * side, num_codes, dim),
        calls.pop("ours"),
        peers=calls,
        gflop=2e-9 * batch * side * side * num_codes * dim,
    )


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dim", [256, 8])
def test_memory_of_a_whole_quantizer(
    name: str, dim: int, benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture
) -> None:
    batch, side, num_codes = 8, 16, 16384
    sizes = map(str, (batch, dim, side, num_codes))
    measured = benchmark.pedantic(lambda: peak_memory("--step", name, *sizes), rounds=1)
    shape = [batch * side * side, num_codes, dim]
    benchmark.extra_info.update(case="memory of a training step", who=name, shape=shape, **measured)
    with capsys.disabled():
        print(
            f"\ntraining step of {name} {' x '.join(map(str, shape))}: "
            f"{measured['extra'] / 2**20:.1f} MiB at the peak beyond what it returns, "
            f"the codebook has {measured['codebook'] / 2**20:.1f} MiB",
            end="",
        )


def test_peak_memory(benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture) -> None:
    """At most twice the codebook beyond what is returned; N x K distances would be 1 GiB."""
    measured = benchmark.pedantic(lambda: peak_memory("16384", "16384", "64"), rounds=1)
    benchmark.extra_info.update(case="memory of vector_quantize", **measured)
    worst = max(measured[part] for part in ("step", "forward", "backward"))
    with capsys.disabled():
        print(
            f"\nvector_quantize fwd+bwd 16384 x 16384 x 64: {worst / 2**20:.1f} MiB at the peak "
            f"beyond what it returns, the codebook has {measured['codebook'] / 2**20:.1f} MiB"
        )
    assert worst <= 2 * measured["codebook"]
