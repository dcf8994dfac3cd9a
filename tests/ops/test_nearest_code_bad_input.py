"""The ops on what they cannot take, and on tensors that are unusual but right.

Either the answer is the definition's, or the error names the argument, what was expected and what
came. `test_nearest_code.py` has the sizes that do not fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from search_cases import assert_is_oracle, oracle
from torch import Tensor

from vqgan_fast import ops

FLOAT = "must be float16, bfloat16, float32 or float64, got"


def quantised(t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to give these up
        return torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)


def freed(t: Tensor) -> Tensor:
    """As sharded training leaves a parameter that is not in use."""
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


WRONG = {
    **{
        str(dtype): (lambda t, dtype=dtype: t.to(dtype), f"{FLOAT} {dtype}")
        for dtype in (
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.complex64,
            torch.complex128,
            torch.float8_e4m3fn,
            torch.uint16,
        )
    },
    "quantised": (quantised, f"{FLOAT} torch.qint8"),
    "coo": (Tensor.to_sparse, "must be a dense tensor, got layout torch.sparse_coo"),
    "csr": (Tensor.to_sparse_csr, "must be a dense tensor, got layout torch.sparse_csr"),
    "csc": (Tensor.to_sparse_csc, "must be a dense tensor, got layout torch.sparse_csc"),
    "freed": (freed, "must be in memory, got a tensor .* whose storage was freed"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
def test_a_tensor_of_a_wrong_kind_is_named(kind: str) -> None:
    make, message = WRONG[kind]
    z, codebook = torch.randn(6, 4), torch.randn(5, 4)
    for op in (ops.nearest_code, ops.vector_quantize):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="vqgan_fast has no")  # it has, for the CPU
            with pytest.raises(RuntimeError, match=f"^z {message}"):
                op(make(z), codebook)
            with pytest.raises(RuntimeError, match=f"^codebook {message}"):
                op(z, make(codebook))


def test_freed_indices_are_named() -> None:
    indices = freed(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"indices must be in memory, got a tensor \(6,\) whose"):
        ops.codebook_stats(torch.randn(6, 4), indices, 5)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (ops.nearest_code, {"z": torch.zeros(4, 3), "codebook": torch.zeros(5, 3)}),
        (ops.vector_quantize, {"z": torch.zeros(4, 3), "codebook": torch.zeros(5, 3)}),
        (
            partial(ops.codebook_stats, num_codes=5),
            {"z": torch.zeros(4, 3), "indices": torch.zeros(4, dtype=torch.int64)},
        ),
        (
            partial(ops.soft_assign, outputs=("expected",)),
            {
                "z": torch.zeros(4, 3),
                "codebook": torch.zeros(5, 3),
                "values": torch.zeros(5, 2),
                "bias": torch.zeros(5),
                "seed": torch.tensor(3),
            },
        ),
    ],
    ids=["nearest_code", "vector_quantize", "codebook_stats", "soft_assign"],
)
def test_what_is_no_tensor_is_named(op: Callable, arguments: dict[str, Tensor]) -> None:
    op(**arguments)
    for name, tensor in arguments.items():
        start = f"^{name} must be (an integer or )?a torch.Tensor, got "
        with pytest.raises(TypeError, match=start + r"numpy\.ndarray; for numpy"):
            op(**arguments | {name: tensor.numpy()})
        with pytest.raises(TypeError, match=start + r"builtins\."):
            op(**arguments | {name: [3]})


def test_devices_that_differ_are_named() -> None:
    z, codebook = torch.randn(6, 4), torch.randn(5, 4)
    for op in (ops.nearest_code, ops.vector_quantize):
        with pytest.raises(RuntimeError, match="codebook must be on cpu like z, got meta"):
            op(z, codebook.to("meta"))
        with pytest.raises(RuntimeError, match="codebook must be on meta like z, got cpu"):
            op(z.to("meta"), codebook)


def test_meta_tensors_have_shapes_and_types() -> None:
    for heads in ((), (2,)):
        z = torch.empty(2, 6, 4, device="meta", dtype=torch.bfloat16)
        codebook = torch.empty(*heads, 5, 4, device="meta", dtype=torch.float64)
        indices, distances = ops.nearest_code(z, codebook)
        assert (indices.shape, indices.dtype) == ((2, 6), torch.int64)
        assert (distances.shape, distances.dtype) == ((2, 6), torch.float64)
        assert indices.device == distances.device == z.device


def test_sizes_with_heads_are_named_whole() -> None:
    for heads in (2, 0):
        z = torch.zeros(heads, 6, 4)
        for shape, message in (
            ((heads, 5, 3), rf"with D = 4, got \({heads}, 5, 3\)"),
            ((heads, 0, 4), rf"at least one code, got \({heads}, 0, 4\)"),
            ((3, 5, 4), rf"leading sizes of z \({heads}, 6, 4\), got \(3, 5, 4\)"),
        ):
            with pytest.raises(RuntimeError, match=f"codebook must .*{message}"):
                ops.nearest_code(z, torch.zeros(shape))
        with pytest.raises(RuntimeError, match=rf"D >= 1, got \({heads}, 6, 0\)"):
            ops.nearest_code(z[..., :0], torch.zeros(heads, 5, 0))


@pytest.mark.parametrize(
    ("z_shape", "codebook_shape"),
    [
        ((0, 4), (5, 4)),
        ((3, 0, 4), (5, 4)),
        ((0, 3, 4), (5, 4)),
        ((2, 0, 4), (2, 5, 4)),
        ((0, 3, 4), (0, 5, 4)),
    ],
    ids=str,
)
def test_nothing_to_search_for(z_shape: tuple, codebook_shape: tuple) -> None:
    indices, distances = ops.nearest_code(torch.zeros(z_shape), torch.randn(codebook_shape))
    assert indices.shape == distances.shape == z_shape[:-1]
    assert indices.dtype == torch.int64
    # A codebook that cannot be is an error though no row asks for it.
    with pytest.raises(RuntimeError, match=r"codebook must be .* with D = 4, got"):
        ops.nearest_code(torch.zeros(z_shape), torch.randn(*codebook_shape[:-1], 3))


def unusual(t: Tensor) -> dict[str, Tensor]:
    """Tensors with the numbers of t that are not what they seem."""
    pair = torch.complex(-t, -t)
    read_only = np.array(t.numpy())
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        not_writable = torch.from_numpy(read_only)
    return {
        "parameter": torch.nn.Parameter(t.clone()),
        "read-only memory": not_writable,
        "imaginary part of a conjugate": pair.conj().imag,
        "negative view": torch._neg_view(-t),
        "behind an offset": torch.cat([torch.full((3, t.shape[1]), torch.nan), t])[3:],
        "columns of a wider one": torch.cat([torch.full_like(t, torch.nan), t], 1)[:, t.shape[1] :],
        "transposed": t.t().contiguous().t(),
        "in inference mode": inference(t),
    }


@torch.inference_mode()
def inference(t: Tensor) -> Tensor:
    return t.clone()


@pytest.mark.parametrize("kind", unusual(torch.zeros(1, 1)))
def test_unusual_tensors(kind: str) -> None:
    for rows in (3, 40):  # searched directly, and through a packed codebook
        z, codebook = torch.randn(rows, 12), torch.randn(60, 12)
        with torch.no_grad():
            for found in (
                ops.nearest_code(unusual(z)[kind], codebook),
                ops.nearest_code(z, unusual(codebook)[kind]),
                ops.nearest_code(unusual(z)[kind], unusual(codebook)[kind]),
            ):
                assert_is_oracle(z, codebook, found)


def test_overlapping_rows() -> None:
    """A sliding window: each number is in many rows."""
    signal = torch.randn(200)
    windows, codebook = signal.unfold(0, 16, 1), signal[:160].unfold(0, 16, 3)
    assert_is_oracle(windows, codebook, ops.nearest_code(windows, codebook))
    assert ops.nearest_code(codebook, windows)[1].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d", [1, 4, 33, 64])
def test_rows_and_codes_that_are_not_finite(d: int, dtype: torch.dtype) -> None:
    """Any share of them, anywhere in a row: none, some, all but one, all."""
    for bad_rows, bad_codes in ((1, 1), (20, 35), (0, 69), (39, 0), (40, 70), (20, 70)):
        z, codebook = torch.randn(40, d, dtype=dtype), torch.randn(70, d, dtype=dtype)
        for matrix, bad in ((z, bad_rows), (codebook, bad_codes)):
            rows = torch.randperm(len(matrix))[:bad]
            values = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
            matrix[rows, torch.randint(d, (bad,))] = values[torch.randint(3, (bad,))]
        indices, distances = ops.nearest_code(z, codebook)
        assert_is_oracle(z, codebook, (indices, distances))
        finite_row = z.isfinite().all(1)
        assert (indices[~finite_row] == 0).all() and distances[~finite_row].isnan().all()
        if codebook.isfinite().all(1).any():
            assert codebook[indices[finite_row]].isfinite().all()


@pytest.mark.parametrize("d", [1, 2])
def test_more_pairs_than_2_to_the_31(d: int) -> None:
    """A million latents that are one in memory, against 4096 codes; and the other way round."""
    row, codebook = torch.randn(1, d), torch.randn(4096, d)
    expected = oracle(row, codebook)[0]
    for precision in ("exact", "fast"):
        indices = ops.nearest_code(row.expand(1 << 20, d), codebook, precision, False)
        assert indices.eq(expected).all()
    codes = row.expand(1 << 20, d)
    assert ops.nearest_code(codebook[:2049], codes, return_distance=False).eq(0).all()
