"""Calls into the CUDA kernels as the host's C++ compiler made them (emulated/entry.cpp)."""

from __future__ import annotations

import ctypes

import torch
from guarded_memory import GuardedMemory

# The order of vqgan_fast::DType.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# The order of vqgan_fast::SearchWay.
WAYS = ("exact", "direct", "mma", "wgmma")
PLAN = (
    "depth",
    "tile_codes",
    "groups",
    "chunk_rows",
    "row_tiles",
    "code_tiles",
    "splits",
    "tiles_per_split",
    "scan_in_finish",
    "exact_blocks",
    "bytes",
)
UNSET = -77


class Rows(ctypes.Structure):
    """vqgan_fast::Rows of a tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("inner_rows", ctypes.c_int64),
        ("outer_stride", ctypes.c_int64),
        ("inner_stride", ctypes.c_int64),
        ("element_stride", ctypes.c_int64),
    )

    def placed(self, memory):
        self.data = memory.address(self.tensor, any_alignment=True)
        return ctypes.byref(self)


class Pointers:
    """An array of the addresses of tensors."""

    def __init__(self, tensors):
        self.tensors = tensors

    def placed(self, memory):
        addresses = (memory.address(tensor) for tensor in self.tensors)
        return (ctypes.c_void_p * len(self.tensors))(*addresses)


def rows_of(tensor):
    """Rows of (N, D), or of (B, H, W, D) as a permuted (B, D, H, W)."""
    if tensor.dim() == 2:
        sizes = (max(tensor.shape[0], 1), 0, tensor.stride(0), tensor.stride(1))
    else:
        assert tensor.stride(1) == tensor.shape[2] * tensor.stride(2)
        inner_rows = tensor.shape[1] * tensor.shape[2]
        sizes = (inner_rows, tensor.stride(0), tensor.stride(2), tensor.stride(3))
    rows = Rows(tensor.data_ptr(), DTYPES.index(tensor.dtype), *sizes)
    rows.tensor = tensor
    return rows


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def convert(argument, memory):
    """For ctypes: integers and floats of 64 bits, tensors in guarded memory."""
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(memory.address(argument))
    return argument.placed(memory) if hasattr(argument, "placed") else argument


class Kernels:
    """The launchers of csrc/kernels/cuda on CPU tensors."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.calls = 0

    def call(self, name, *arguments):
        """All tensors lie in guarded memory while it runs, in each call at another end of it."""
        self.calls += 1
        with GuardedMemory(self.calls % 3) as memory:
            error = getattr(self.library, name)(*(convert(a, memory) for a in arguments))
        assert error == 0, f"{name} returned CUDA error {error}"

    def emulate(self, multiprocessors=4, schedule=0, capability=80):
        """schedule: 0 runs threads in order, 1 backwards, more: shuffled with that seed; -1 and -2
        run a warp as long as it needs no other, in order and backwards."""
        self.multiprocessors = multiprocessors
        self.library.set_emulation(multiprocessors, schedule)
        self.library.set_capability(capability)

    def nearest_code(self, z, codebook, distance_dtype=torch.float64, exact=True, way=None, rows=0):
        """way: a name of WAYS; None for the plan's choice. rows: at a time; 0 as many as ever."""
        num_rows, dim = z.shape[:-1].numel(), z.shape[-1]
        indices = torch.full(z.shape[:-1], UNSET)
        distances = torch.full(z.shape[:-1], float(UNSET), dtype=distance_dtype)
        self.call(
            "nearest_code",
            rows_of(z),
            rows_of(codebook),
            num_rows,
            len(codebook),
            dim,
            int(exact),
            -1 if way is None else WAYS.index(way),
            rows,
            indices,
            distances,
            DTYPES.index(distance_dtype),
        )
        return indices, distances

    def screen(self, z, codebook, way):
        """What packing and a search on tensor cores leave, before anything is measured in fp64."""
        num_rows, dim = z.shape
        plan = self.plan_search(num_rows, len(codebook), dim, way)
        classes = 4 * plan["groups"]
        code_panel = plan["depth"] * 128 * 2 + 512
        out = {
            "row_facts": torch.empty(num_rows, 4),
            "code_facts": torch.empty(4),
            "margins": torch.empty(num_rows),
            "scores": torch.empty(plan["splits"], num_rows, classes),
            "tiles": torch.empty(plan["splits"], num_rows, classes, dtype=torch.int32),
            "losers": torch.empty(plan["splits"], num_rows),
            "row_image": torch.empty(-(-num_rows // 64), plan["depth"] * 64 * 2, dtype=torch.uint8),
            "code_image": torch.empty(plan["code_tiles"], code_panel, dtype=torch.uint8),
            "centre": torch.empty(dim),
        }
        sizes = (num_rows, len(codebook), dim, WAYS.index(way))
        self.call("screen", rows_of(z), rows_of(codebook), *sizes, *out.values())
        return out | plan

    def plan_search(self, num_rows, num_codes, dim, way, multiprocessors=None):
        """SearchPlan, by name."""
        values = (ctypes.c_int64 * len(PLAN))()
        sizes = (num_rows, num_codes, dim, WAYS.index(way), multiprocessors or self.multiprocessors)
        self.library.plan_search(*(ctypes.c_int64(size) for size in sizes), values)
        return dict(zip(PLAN, values, strict=True))

    def oracle(self, z, codebook):
        """The scalar definition: kernels/cpu/nearest_code_oracle.h."""
        shape, dim = z.shape[:-1], z.shape[-1]
        z = z.double().reshape(-1, dim).contiguous()
        codebook = codebook.double().contiguous()
        indices = torch.full(shape, UNSET)
        distances = torch.full(shape, float(UNSET), dtype=torch.float64)
        self.library.oracle.restype = None
        self.library.oracle(
            pointer(z),
            pointer(codebook),
            *(ctypes.c_int64(n) for n in (len(z), len(codebook), dim)),
            pointer(indices),
            pointer(distances),
        )
        return indices, distances

    def straight_through(self, z, codebook, indices):
        z_q = torch.full_like(z, UNSET)
        promoted = DTYPES.index(torch.promote_types(z.dtype, codebook.dtype))
        num_rows, dim = indices.numel(), z.shape[-1]
        self.call(
            "straight_through",
            rows_of(z),
            rows_of(codebook),
            indices,
            num_rows,
            dim,
            promoted,
            rows_of(z_q),
        )
        return z_q

    def mean_distance(self, distances, divisor, dtype):
        losses = torch.full((2,), float(UNSET), dtype=dtype)
        self.call(
            "mean_distance",
            distances,
            distances.numel(),
            float(divisor),
            losses[0],
            losses[1],
            DTYPES.index(dtype),
        )
        return losses

    def order_by_code(self, indices, num_codes):
        order = torch.full((indices.numel(),), UNSET)
        starts = torch.full((num_codes + 1,), UNSET)
        self.call("order_by_code", indices, indices.numel(), num_codes, order, starts)
        return order, starts

    def codebook_stats(self, z, indices, num_codes):
        order, starts = self.order_by_code(indices, num_codes)
        dim = z.shape[-1]
        dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
        counts = torch.full((num_codes,), UNSET)
        sums = torch.full((num_codes, dim), float(UNSET), dtype=dtype)
        self.call(
            "codebook_stats",
            rows_of(z),
            order,
            starts,
            indices.numel(),
            num_codes,
            dim,
            counts,
            sums,
            DTYPES.index(dtype),
        )
        return counts, sums

    def grad_z(self, grad_z_q, grad_commitment, z, codebook, indices):
        grad = torch.full_like(z, UNSET)
        self.call(
            "grad_z",
            None if grad_z_q is None else rows_of(grad_z_q),
            torch.tensor(grad_commitment),
            rows_of(z),
            rows_of(codebook),
            indices,
            indices.numel(),
            len(codebook),
            z.shape[-1],
            2.0 / z.numel(),
            rows_of(grad),
        )
        return grad

    def grad_codebook(self, grad_codebook_loss, z, codebook, indices):
        order, starts = self.order_by_code(indices, len(codebook))
        grad = torch.full_like(codebook, UNSET)
        self.call(
            "grad_codebook",
            torch.tensor(grad_codebook_loss),
            rows_of(z),
            rows_of(codebook),
            order,
            starts,
            len(codebook),
            z.shape[-1],
            2.0 / z.numel(),
            rows_of(grad),
        )
        return grad
