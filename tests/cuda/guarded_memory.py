"""Tensors for one call of an emulated kernel, where a step beyond their memory ends the program.

On a GPU such a step often goes unseen, because an allocation's neighbours are allocated as well.
"""

from __future__ import annotations

import ctypes
import mmap

import torch

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
ALIGNMENT = 16  # of the largest access


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses of the first byte of all elements and of the one behind the last."""
    if tensor.numel() == 0:
        return tensor.data_ptr(), tensor.data_ptr()
    steps = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()


class GuardedMemory:
    """Within `with`, `address(tensor)` is a copy's between two pages that nobody may touch; at the
    end what kernels wrote is copied back.

    turn: where between them. 0: at the end, aligned as the tensor itself, so that up to 15 bytes
    behind it stay unguarded; 1: at the beginning; 2: exactly at the end, for kernels that take
    tensors of any alignment (`address` of others takes 0).
    """

    def __init__(self, turn: int):
        self.turn = turn
        self.copies: dict[tuple[int, int], tuple[mmap.mmap, int]] = {}

    def __enter__(self) -> GuardedMemory:
        return self

    def __exit__(self, *_) -> None:
        for (begin, end), (memory, address) in self.copies.items():
            ctypes.memmove(begin, address, end - begin)
            memory.close()

    def address(self, tensor: torch.Tensor, any_alignment: bool = False) -> int:
        begin, end = span(tensor)
        if (begin, end) not in self.copies:
            assert all(end <= first or last <= begin for first, last in self.copies), (
                "two tensors of one call that overlap would no longer do so"
            )
            self.copies[begin, end] = self.copy(begin, end, any_alignment)
        return self.copies[begin, end][1]

    def copy(self, begin: int, end: int, any_alignment: bool) -> tuple[mmap.mmap, int]:
        size = end - begin
        inside = -(-size // PAGE) * PAGE
        memory = mmap.mmap(-1, inside + 2 * PAGE)
        view = ctypes.c_char.from_buffer(memory)
        first = ctypes.addressof(view) + PAGE
        del view  # or the mapping cannot be closed
        if self.turn == 1:
            address = first
        else:
            address = first + inside - size
            if not (self.turn == 2 and any_alignment):
                address -= (address - begin) % ALIGNMENT
        # A copy that begins less than 16 bytes before its page is one of less than 16 bytes.
        address = max(address, first)
        ctypes.memmove(address, begin, size)
        for guard in (first - PAGE, first + inside):
            error = LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0)
            assert error == 0, f"mprotect: errno {ctypes.get_errno()}"
        return memory, address
