"""Peak memory of the ops and their peers, measured by the kernel of the system.

    python benchmarks/peak_memory.py [N K D]                vector_quantize, forward and backward
    python benchmarks/peak_memory.py --search NAME N K D    nearest_code, or a peer by its name
    python benchmarks/peak_memory.py --step NAME B D H K    a quantiser's training step, H x H
    python benchmarks/peak_memory.py --soft NAME N K D      soft_assign, or its dense form, and back

prints one JSON object. Run it as a process of its own: the resident set of a process, reset through
/proc/self/clear_refs just before the call and read as VmHWM just after, sees every allocation, C++
and Python, at its largest. What the call must return (z_q, indices, losses and gradients) is taken
off.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import torch

from vqgan_fast import ops


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_bytes(run: Callable[[], list[torch.Tensor]]) -> tuple[int, list[torch.Tensor]]:
    """What `run` holds at its peak beyond what it returns, and what it returns."""
    # Free memory that the process still holds would hide allocations.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    results = run()
    peak = _status_bytes("VmHWM") - before
    return peak - sum(t.numel() * t.element_size() for t in results), results


def extra_bytes(num_rows: int, num_codes: int, dim: int) -> dict[str, int]:
    """What a forward pass, a backward pass, and a step of both hold at their peak.

    Inputs, outputs and gradients are not counted. Needs a writable /proc/self/clear_refs (Linux).
    """
    torch.manual_seed(0)

    def forward() -> list[torch.Tensor]:
        return list(ops.vector_quantize(z, codebook))

    def backward(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        differentiable = [outputs[0], *outputs[2:]]
        one = torch.ones(())
        return list(torch.autograd.grad(differentiable, (z, codebook), (grad_z_q, one, one)))

    def step() -> list[torch.Tensor]:
        outputs = forward()
        return [*outputs, *backward(outputs)]

    def one_codebook() -> list[torch.Tensor]:
        return [codebook.detach().clone().sum()]

    # Threads, lazy imports and the allocator's own pools are there before anything is counted.
    z = torch.randn(512, dim, requires_grad=True)
    codebook = torch.randn(64, dim, requires_grad=True)
    grad_z_q = torch.randn(z.shape)
    step()
    one_codebook()
    z = torch.randn(num_rows, dim, requires_grad=True)
    codebook = torch.randn(num_codes, dim, requires_grad=True)
    grad_z_q = torch.randn(z.shape)
    extra_step, _ = peak_bytes(step)
    extra_forward, outputs = peak_bytes(forward)
    extra_backward, _ = peak_bytes(lambda: backward(outputs))
    extra_known, _ = peak_bytes(one_codebook)
    return {
        "step": extra_step,
        "forward": extra_forward,
        "backward": extra_backward,
        "one_codebook": extra_known,  # a call that is known to hold just that
        "codebook": codebook.numel() * codebook.element_size(),
    }


def search_bytes(name: str, num_rows: int, num_codes: int, dim: int) -> dict[str, int]:
    """What `nearest_code`, or the peer of that name in contenders.py, holds at its peak."""

    def search(n: int, k: int) -> Callable[[], object]:
        z, codebook = torch.randn(n, dim), torch.randn(k, dim)
        if name == "nearest_code":
            return lambda: ops.nearest_code(z, codebook, return_distance=False)
        if name == "mm alone":  # with its result, which the others need not hold
            return lambda: z @ codebook.t()
        import contenders

        return contenders.peers(z, codebook)[0][name].call

    torch.manual_seed(0)
    search(512, 64)()
    call = search(num_rows, num_codes)

    def run() -> list[torch.Tensor]:
        found = call()
        return [] if name == "mm alone" else [found]

    # What a codebook is packed into is kept from the second call on: there it becomes memory that
    # the process holds.
    extra, second, third = (peak_bytes(run)[0] for _ in range(3))
    codebook = 4 * num_codes * dim
    return {"extra": extra, "second": second, "third": third, "codebook": codebook}


def step_bytes(name: str, batch: int, dim: int, side: int, num_codes: int) -> dict[str, int]:
    """What a training step of a module of quantizer_steps.py holds at its peak."""
    from quantizer_steps import SOFT_STEPS, STEPS

    torch.manual_seed(0)
    make = (STEPS | SOFT_STEPS)[name]
    make(torch.randn(64, dim))(torch.randn(2, dim, 4, 4, requires_grad=True))
    step = make(torch.randn(num_codes, dim))
    latents = torch.randn(batch, dim, side, side, requires_grad=True)
    return {"extra": peak_bytes(lambda: step(latents))[0], "codebook": 4 * num_codes * dim}


def soft_bytes(name: str, num_rows: int, num_codes: int, dim: int) -> dict[str, int]:
    """What `soft_assign`, or the dense formula, holds at its peak, forward and backward."""
    from soft_forms import FORMS, gradients

    def step(n: int, k: int) -> Callable[[], list[torch.Tensor]]:
        z, codebook = (torch.randn(rows, dim, requires_grad=True) for rows in (n, k))
        return lambda: list(gradients(FORMS[name], z, codebook))

    torch.manual_seed(0)
    step(64, 64)()
    return {"extra": peak_bytes(step(num_rows, num_codes))[0], "codebook": 4 * num_codes * dim}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--search")
    parser.add_argument("--step")
    parser.add_argument("--soft")
    parser.add_argument("sizes", type=int, nargs="*", default=[16384, 16384, 64])
    arguments = parser.parse_args()
    if arguments.search:
        measured = search_bytes(arguments.search, *arguments.sizes)
    elif arguments.step:
        measured = step_bytes(arguments.step, *arguments.sizes)
    elif arguments.soft:
        measured = soft_bytes(arguments.soft, *arguments.sizes)
    else:
        measured = extra_bytes(*arguments.sizes)
    print(json.dumps(measured))
