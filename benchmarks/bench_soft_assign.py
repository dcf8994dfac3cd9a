"""`soft_assign`, and the quantiser of IBQ on it, beside the dense formula in plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from soft_forms import dense, gradients, ours
from torch import Tensor
from torch.nn.functional import normalize

from vqgan_fast import ops

SHAPES = [(4096, 8192, d) for d in (8, 32, 64, 256)]
SHAPES += [(1024, k, d) for k in (1024, 4096, 16384) for d in (8, 32)]
# N, K, D by which IBQ's authors train, and one that the dense form can hold as well.
LARGEST = (16, 32, 16, 262144)
DENSE_CAN = (16, 32, 16, 16384)


# Of latents and codes of length 1. At the first a product in fp32 is exact enough; the second,
# LlamaGen's and IBQ's, makes logits so large that they are computed in fp64.
TEMPERATURES = (1.0, 0.01)


def inputs(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return normalize(torch.randn(n, d), dim=1), normalize(torch.randn(k, d), dim=1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(
    shape: tuple[int, int, int], temperature: float, threads: int, compare: Callable
) -> None:
    n, k, d = shape
    z, codebook = inputs(n, k, d)
    options = {"temperature": temperature}
    for one, other in zip(
        ours(z, codebook, codebook, temperature),
        dense(z, codebook, codebook, temperature),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def alone(output: str, **more: object) -> Callable:
        return lambda: ops.soft_assign(z, codebook, outputs=(output,), **options, **more)

    compare(
        f"soft_assign: expected, entropy, T = {temperature}",
        shape,
        lambda: ours(z, codebook, codebook, temperature),
        peers={"dense torch": lambda: dense(z, codebook, codebook, temperature)},
        variants={
            "log_sum_exp alone": alone("log_sum_exp"),
            "mean probability": alone("mean_probability"),
            "with noise": alone("expected", seed=1),
        },
        gflop=4e-9 * n * k * d,
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(
    shape: tuple[int, int, int], temperature: float, threads: int, compare: Callable
) -> None:
    z, codebook = (x.requires_grad_() for x in inputs(*shape))
    n, k, d = shape
    for one, other in zip(
        gradients(ours, z, codebook, temperature),
        gradients(dense, z, codebook, temperature),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
    compare(
        f"soft_assign fwd+bwd, T = {temperature}",
        shape,
        lambda: gradients(ours, z, codebook, temperature),
        peers={"dense torch": lambda: gradients(dense, z, codebook, temperature)},
        # Two products forward; backward three for each side.
        gflop=16e-9 * n * k * d,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["soft_assign", "dense torch"])
def test_memory_of_forward_and_backward(
    name: str, shape: tuple[int, int, int], benchmark: BenchmarkFixture, capsys: Any
) -> None:
    measured = in_a_process(benchmark, "--soft", name, *shape)
    benchmark.extra_info.update(case="memory of fwd+bwd", who=name, shape=list(shape), **measured)
    with capsys.disabled():
        text = " x ".join(map(str, shape))
        print(f"\n{name} fwd+bwd {text}: {measured['extra'] / 2**20:.1f} MiB", end="")


def in_a_process(benchmark: BenchmarkFixture, *arguments: object) -> dict[str, int]:
    script = str(Path(__file__).with_name("peak_memory.py"))
    command = [sys.executable, script, *map(str, arguments)]

    def measure() -> dict[str, int]:
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    return benchmark.pedantic(measure, rounds=1)


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
    measured = in_a_process(benchmark, "--step", name, *sizes)
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
