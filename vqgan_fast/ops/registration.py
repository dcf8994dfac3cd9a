"""Loads the op libraries, and gives every op an implementation on devices that have no kernel."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from .._library import load_libraries

load_libraries()


def register_fallback(op: str, definition: Callable) -> None:
    """Runs `definition` where `op` has no kernel, with one warning for each device type."""
    name = op.split("::")[1]
    warned: set[str] = set()

    @functools.wraps(definition)
    def fallback(*args):
        result = definition(*args)  # first: bad arguments are an error and no reason to warn
        device = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))
        if device not in warned:
            warned.add(device)
            warnings.warn(
                f"vqgan_fast has no {name} kernel for {device} here: it runs in plain torch, "
                "slowly (`vqgan-fast info` says what was loaded)",
                stacklevel=2,
            )
        return result

    # CompositeExplicitAutograd: every device without a kernel of its own.
    torch.library.register_kernel(op, None, fallback)


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def may_skip_autograd(z: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether an op's twin without autograd may stand for it: on the CPU, with no gradient asked.

    Autograd of ops like ours is Python, which takes longer than a small call. What is traced or
    transformed may be differentiated later or elsewhere: under vmap no tensor says that it requires
    a gradient.
    """
    return (
        not torch.compiler.is_compiling()
        and type(z) in _PLAIN
        and type(other) in _PLAIN
        and z.is_cpu
        and not (torch.is_grad_enabled() and (z.requires_grad or other.requires_grad))
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._get_tracing_state()
        and not torch._C._len_torch_dispatch_stack()
    )


def check_tensors(expected: str = "a torch.Tensor", /, **arguments: object) -> None:
    """Raises where an argument is an array or a list, of which the dispatcher would print all; of
    None the kernels tell. `expected` is what the message says it must be.

    Raises:
        TypeError: the argument is named.
    """
    for name, value in arguments.items():
        # Whoever brings __torch_function__, as tracers do, knows what to do.
        known = value is None or isinstance(value, torch.Tensor)
        if not known and not hasattr(value, "__torch_function__"):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            if kind.startswith("numpy."):
                kind += "; for numpy there is only vqgan_fast.numpy.nearest_code"
            raise TypeError(f"{name} must be {expected}, got {kind}")


def require_tensors(**arguments: object) -> None:
    """`check_tensors` of arguments that Python looks into, or that hold integers: of None there, no
    kernel tells.

    Raises:
        TypeError: an argument is no tensor, and is named.
    """
    for name, value in arguments.items():
        if value is None:
            raise TypeError(f"{name} must be a torch.Tensor, got None")
    check_tensors(**arguments)


def _in_dual_level() -> bool:
    return forward_ad._current_level >= 0  # nearly never


# What torch.compiler.assume_constant_result does, which would import the compiler. Tracing enters
# the levels of torch.func.jvp itself, and a guard on their number would fail outside of them.
_in_dual_level._dynamo_marked_constant = True


def refuse_forward_mode(op: str, *tensors: torch.Tensor | None) -> None:
    """Raises where a tensor carries a tangent, which torch drops in ops registered as ours are.

    Raises:
        NotImplementedError: there is a tangent; the result's would be zero, whatever the inputs'.
    """
    # Where a compiler traces outside of all levels, the number itself is read, and guarded then:
    # what was compiled there must not serve within one.
    if not _in_dual_level() and forward_ad._current_level < 0:
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{op} has no forward-mode derivative (torch.func.jvp, jacfwd, dual tensors); "
                f"vqgan_fast.ops.reference.{op}, its definition in plain torch, has"
            )


def has_kernel(op: str, device_type: str) -> bool:
    """Whether an op of ours has a kernel of its own for a type of device, such as "cuda"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"vqgan_fast::{op}", key
    )
