"""`soft_assign`, and the quantiser of IBQ on it, beside the dense formula in plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from vqgan_fast import ops

SHAPES = [(4096, 8192, d) for d in (8, 32, 64, 256)] + [(1024, 16384, 8)]
# N, K, D by which IBQ's authors train, and one that the dense form can hold as well.
LARGEST = (16, 32, 16, 262144)
DENSE_CAN = (16, 32, 16, 16384)


def dense(z: Tensor, codebook: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The expected value and the entropy, with the distances expanded as such code does."""
    norms = z.square().sum(1, keepdim=True) + codebook.square().sum(1)
    log_p = (2 * z @ codebook.T - norms).log_softmax(1)
    p = log_p.exp()
    return p @ values, -(p * log_p).sum(1)


def ours(z: Tensor, codebook: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    found = ops.soft_assign(z, codebook, outputs=("expected", "entropy"), values=values)
    return found.expected, found.entropy


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape: tuple[int, int, int], threads: int, compare: Callable) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    for one, other in zip(ours(z, codebook, codebook), dense(z, codebook, codebook), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    compare(
        "soft_assign: expected, entropy",
        shape,
        lambda: ours(z, codebook, codebook),
        peers={"dense torch": lambda: dense(z, codebook, codebook)},
        variants={
            "log_sum_exp alone": lambda: ops.soft_assign(z, codebook, outputs=("log_sum_exp",)),
            "mean probability": lambda: ops.soft_assign(z, codebook, outputs=("mean_probability",)),
            "with noise": lambda: ops.soft_assign(z, codebook, outputs=("expected",), seed=1),
        },
        gflop=4e-9 * n * k * d,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(shape: tuple[int, int, int], threads: int, compare: Callable) -> None:
    n, k, d = shape
    torch.manual_seed(0)
    z, codebook = torch.randn(n, d, requires_grad=True), torch.randn(k, d, requires_grad=True)
    weights = torch.randn(n, d)

    def gradients(form: Callable) -> tuple[Tensor, ...]:
        # The codebook as values held fixed, as in IBQ.
        expected, entropy = form(z, codebook, codebook.detach())
        return torch.autograd.grad((expected * weights).sum() + entropy.sum(), (z, codebook))

    for one, other in zip(gradients(ours), gradients(dense), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    compare(
        "soft_assign fwd+bwd",
        shape,
        lambda: gradients(ours),
        peers={"dense torch": lambda: gradients(dense)},
        # Two products forward; backward three for each side.
        gflop=16e-9 * n * k * d,
    )


@pytest.mark.parametrize(
    ("name", "sizes"), [("IBQ", LARGEST), ("IBQ", DENSE_CAN), ("dense IBQ", DENSE_CAN)], ids=str
)
def test_memory_of_a_step_of_ibq(
    name: str,
    sizes: tuple[int, int, int, int],
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture,
) -> None:
    batch, dim, side, num_codes = sizes
    script = str(Path(__file__).with_name("peak_memory.py"))
    command = [sys.executable, script, "--step", name, *map(str, sizes)]

    def measure() -> dict[str, int]:
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    measured = benchmark.pedantic(measure, rounds=1)
    shape = [batch * side * side, num_codes, dim]
    benchmark.extra_info.update(case="memory of a step of IBQ", who=name, shape=shape, **measured)
    with capsys.disabled():
        print(
            f"\ntraining step of {name} {' x '.join(map(str, shape))}: "
            f"{measured['extra'] / 2**20:.0f} MiB at the peak beyond what it returns, the codebook "
            f"has {measured['codebook'] / 2**20:.0f} MiB",
            end="",
        )
    if name == "IBQ":
        assert measured["extra"] < 1 << 30
