"""How much memory a computation holds, found without allocating any."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """While entered, follows the storages of all tensors that operators make.

    Storages live as long as they would in a real run: what autograd saves until it is used, the
    rest until the last reference goes. With fake tensors none of them is ever allocated. What was
    there before, such as weights, is not counted, nor is what an operator takes and gives back
    within itself, such as a library's workspace; but for convolutions, see `convolution_copies`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0  # bytes
        self.peak = 0
        self._numbers: dict[int, int] = {}  # of storages that live, by their address
        self._sizes: list[int] = []  # by number; 0 for what was there before
        self._events: list[int] = []  # n: storage n came, -n - 1: it went

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):  # a view of a weight is no new memory
            self._see(storage, 0)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._see(storage, storage.nbytes())
        self._pass(convolution_copies(func, args, result))
        return result

    def peak_without(self, tensors: Iterable[Tensor]) -> int:
        """The peak if these tensors, which live still, had been elsewhere."""
        elsewhere = {self._numbers.get(tensor.untyped_storage()._cdata) for tensor in tensors}
        now = peak = 0
        for event in self._events:
            number = event if event >= 0 else -event - 1
            if number not in elsewhere:
                now += self._sizes[number] if event >= 0 else -self._sizes[number]
                peak = max(peak, now)
        return peak

    def _see(self, storage: torch.UntypedStorage, size: int) -> None:
        address = storage._cdata  # views share it
        if address in self._numbers:
            return
        number = self._numbers[address] = len(self._sizes)
        self._sizes.append(size)
        self._events.append(number)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, address, number)

    def _pass(self, size: int) -> None:
        """What lives within an operator, beside its result."""
        if size:
            number = len(self._sizes)
            self._sizes.append(size)
            self._events += [number, -number - 1]
            self.peak = max(self.peak, self.now + size)

    def _forget(self, address: int, number: int) -> None:
        del self._numbers[address]
        self._events.append(-number - 1)
        self.now -= self._sizes[number]


def convolution_copies(func: Any, args: tuple, result: Any) -> int:
    """Bytes of the copies within a convolution, beside its result, as measured for oneDNN.

    Its kernels want channels in blocks. Forward, x is copied so, then y is computed so and copied
    back when x's copy is gone; backward, gradients as well. Weights are always copied. A kernel of
    1 x 1 is a matrix product, which takes tensors as they are.
    """
    if func.name() == "aten::convolution":
        x, weight = args[:2]
        copies = max(x.nbytes, result.nbytes)
    elif func.name() == "aten::convolution_backward":
        grad, x, weight = args[:3]
        copies = x.nbytes + max(x.nbytes, grad.nbytes)
    else:
        return 0
    return copies + weight.nbytes if max(weight.shape[2:]) > 1 else 0


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
