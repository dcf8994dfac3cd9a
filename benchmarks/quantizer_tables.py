"""`soft_assign` beside the dense formula, and training steps of quantisers beside their peers'.

    python benchmarks/quantizer_tables.py                         all parts, about five minutes
    python benchmarks/quantizer_tables.py --part quantizer_steps --output benchmarks/results

Times are those of the calling thread's processor, on one thread, medians of rounds in which all
take their turn, so that a busy machine counts little. Peaks are those of a process of its own,
beyond inputs, results and gradients. Results of `soft_assign` are compared before it is timed;
`bench_soft_assign.py` times it by the wall clock, on all threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from bench_decode import medians
from quantizer_steps import STEPS
from soft_forms import FORMS, gradients
from tables import Row, Tables
from torch.nn.functional import normalize

PEAK_MEMORY = Path(__file__).with_name("peak_memory.py")
# N, K, D; the temperatures are those of bench_soft_assign.py.
SOFT = [(1024, k, d) for k in (1024, 16384) for d in (8, 32)]
SOFT += [(1024, 8192, 256), *((4096, 8192, d) for d in (8, 32, 64))]
TEMPERATURES = (1.0, 0.01)
# Latents (B, D, H, H) and K.
STEP_SIZES = [(8, d, 16, 16384) for d in (8, 256)]
# K by which IBQ's authors train, and one that the dense form can hold as well.
IBQ_SIZES = [("IBQ", 262144), ("IBQ", 16384), ("dense IBQ", 16384)]


def peak(*arguments: object) -> float:
    """MiB, by peak_memory.py in a process of its own."""
    command = [sys.executable, str(PEAK_MEMORY), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["extra"] / 2**20


def soft_assign(rounds: int) -> list[Row]:
    rows = []
    for n, k, d in SOFT:
        for temperature in TEMPERATURES:
            torch.manual_seed(0)
            z, codebook = (normalize(torch.randn(size, d)).requires_grad_() for size in (n, k))
            calls = {
                name: partial(gradients, form, z, codebook, temperature)
                for name, form in FORMS.items()
            }
            for one, other in zip(*(call() for call in calls.values()), strict=True):
                tolerance = 1e-3 * float(other.abs().max())
                torch.testing.assert_close(one, other, rtol=1e-3, atol=tolerance)
            found = medians(calls, rounds)
            ours, dense = found["soft_assign"], found["dense torch"]
            rows.append({
                "N x K x D": f"{n} x {k} x {d}", "T": temperature, "ms": ours, "dense, ms": dense,
                "x dense": dense / ours, "GFLOP/s": 16e-6 * n * k * d / ours,
            })  # fmt: skip
    return rows


def steps(rounds: int) -> list[Row]:
    rows = []
    for batch, dim, side, num_codes in STEP_SIZES:
        torch.manual_seed(0)
        codebook = torch.randn(num_codes, dim)
        latents = torch.randn(batch, dim, side, side, requires_grad=True)
        calls = {name: partial(make(codebook), latents) for name, make in STEPS.items()}
        found = medians(calls, rounds)
        for name, ms in found.items():
            rows.append({
                "N x K x D": f"{batch * side * side} x {num_codes} x {dim}", "step": name, "ms": ms,
                "of ours": ms / found["ours"],
            })  # fmt: skip
    return rows


def memory() -> list[Row]:
    """Peaks of soft_assign, of the steps above and of IBQ's, each beside the codebook it has."""
    cases = [
        (f"{name}, forward and backward", (n, k, d), ("--soft", name, n, k, d))
        for n, k, d in SOFT
        for name in FORMS
    ]
    sizes = [(name, *step) for step in STEP_SIZES for name in STEPS]
    sizes += [(name, 16, 32, 16, k) for name, k in IBQ_SIZES]
    cases += [
        (f"training step, {name}", (batch * side * side, k, d), ("--step", name, batch, d, side, k))
        for name, batch, d, side, k in sizes
    ]
    return [
        {"what": what, "N x K x D": " x ".join(map(str, shape)), "peak, MiB": peak(*arguments),
         "codebook, MiB": 4 * shape[1] * shape[2] / 2**20}
        for what, shape, arguments in cases
    ]  # fmt: skip


# Part, which names the file -> title of its page, and what measures its rows in so many rounds.
PARTS = {
    "soft_assign": (
        "Soft assignment, forward and backward, beside the dense formula", soft_assign,
    ),
    "quantizer_steps": ("Training steps of quantisers: forward, loss, gradients", steps),
    "quantizer_memory": (
        "Memory of soft assignment and of training steps", lambda rounds: memory(),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a folder for <part>_<CPU>.json and .md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.part:
        title, measure = PARTS[part]
        tables = Tables(title, threads=1, rounds=options.rounds)
        tables.add("Figures", measure(options.rounds))
        for file in tables.write(options.output, part):
            print(file)


if __name__ == "__main__":
    main()
