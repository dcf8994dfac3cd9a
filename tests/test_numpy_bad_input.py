"""`vqgan_fast.numpy.nearest_code` on what it cannot take and on what it need not be given.

Either the answer is right, or the error names the argument, what was expected and what came.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from vqgan_fast.numpy import nearest_code


def made(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


WANTED = "must be float16, float32 or float64 in native byte order, got"
CODES = r"codebook must be \(K, D\) or \(..., K, D\) with the leading axes of z"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.ones((3, 4), np.int64)}, f"z {WANTED} int64"),
        ({"z": np.ones((3, 4), bool)}, f"z {WANTED} bool"),
        ({"z": np.ones((3, 4), complex)}, f"z {WANTED} complex128"),
        ({"z": np.ones((3, 4), object)}, f"z {WANTED} object"),
        ({"z": np.ones((3, 4), np.longdouble)}, rf"z {WANTED} (float128|float96|longdouble)"),
        ({"z": np.ones((3, 4), ">f4")}, f"z {WANTED} >f4"),
        ({"z": np.ones((3, 4), "M8[s]")}, rf"z {WANTED} datetime64\[s\]"),
        ({"z": np.ones((3,), [("a", "f4")])}, rf"z {WANTED} \[\('a', '<f4'\)\]"),
        ({"z": [["a", "b"]]}, f"z {WANTED} <U1"),
        ({"z": None}, f"z {WANTED} object"),
        ({"codebook": np.ones((5, 4), ">f8")}, f"codebook {WANTED} >f8"),
        ({"codebook": np.ones((5, 4), np.uint8)}, f"codebook {WANTED} uint8"),
        ({"z": 1.0}, r"z must be \(..., N, D\) with D >= 1, got \(\)"),
        ({"z": made((4,))}, r"z must be \(..., N, D\) with D >= 1, got \(4,\)"),
        ({"z": made((3, 0))}, r"z must be \(..., N, D\) with D >= 1, got \(3, 0\)"),
        ({"z": made((2, 3, 0))}, r"z must be \(..., N, D\) with D >= 1, got \(2, 3, 0\)"),
        ({"codebook": 1.0}, rf"{CODES} .*, got \(\)"),
        ({"codebook": made((4,))}, rf"{CODES} .*, got \(4,\)"),
        ({"codebook": made((5, 3))}, rf"{CODES} \(3, 4\), .*D = 4, got \(5, 3\)"),
        ({"codebook": made((0, 4))}, rf"{CODES} \(3, 4\), K >= 1 .*, got \(0, 4\)"),
        ({"codebook": made((5, 0))}, rf"{CODES} .*, got \(5, 0\)"),
        ({"codebook": made((2, 5, 4))}, rf"{CODES} \(3, 4\), .*, got \(2, 5, 4\)"),
        ({"precision": "exactly"}, 'precision must be "exact" or "fast", got \'exactly\''),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"num_threads": -3}, "num_threads must be at least 1, got -3"),
        ({"num_threads": -(2**70)}, "num_threads must be at least 1, got -65536"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    arguments = {"z": made((3, 4)), "codebook": made((5, 4))} | change
    with pytest.raises(ValueError, match=message):
        nearest_code(**arguments)


@pytest.mark.parametrize("heads", [(2, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("wrong", [(5, 3), (0, 4), (5, 0)], ids=str)
def test_errors_with_heads_name_the_whole_shape(heads: tuple, wrong: tuple) -> None:
    """Without any head, too: what fails with some must not pass with none."""
    z = made((*heads, 6, 4))
    shape = rf"\({heads[0]}, {heads[1]}, {wrong[0]}, {wrong[1]}\)"
    with pytest.raises(ValueError, match=rf"{CODES} \({heads[0]}, 3, 6, 4\), .*got {shape}"):
        nearest_code(z, made((*heads, *wrong)))
    with pytest.raises(ValueError, match=rf"{CODES} .*, got \(3, {heads[0]}, 5, 4\)"):
        nearest_code(z, made((*heads[::-1], 5, 4)))
    with pytest.raises(ValueError, match=rf"{CODES} .*, got \({heads[0]}, 5, 4\)"):
        nearest_code(z, made((heads[0], 5, 4)))
    with pytest.raises(ValueError, match=f"z {WANTED} int64"):
        nearest_code(z.astype(np.int64), made((*heads, 5, 4)))
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        nearest_code(z, made((*heads, 5, 4)), num_threads=0)


@pytest.mark.parametrize("num_threads", [2.5, "2", None])
def test_a_number_of_threads_that_is_none(num_threads: Any) -> None:
    with pytest.raises(TypeError, match=f"num_threads must be an integer, got {num_threads!r}"):
        nearest_code(made((3, 4)), made((5, 4)), num_threads=num_threads)


def test_any_integer_is_a_number_of_threads() -> None:
    z, codebook = made((3000, 4)), made((50, 4), seed=1)
    expected = nearest_code(z, codebook)
    for num_threads in (True, np.int32(2), 10**30):
        found = nearest_code(z, codebook, num_threads=num_threads)
        np.testing.assert_array_equal(found, expected)


def test_masked_elements_are_refused() -> None:
    """Their numbers would be searched for as if no mask were there."""
    z, codebook = made((6, 4)), made((5, 4), seed=1)
    masked = np.ma.masked_array(z, mask=z > 1)
    with pytest.raises(ValueError, match=r"z must not have masked elements, got \d+ of them: fill"):
        nearest_code(masked, codebook)
    with pytest.raises(ValueError, match="codebook must not have masked elements, got"):
        nearest_code(codebook, masked)
    _, distances = nearest_code(masked.filled(np.nan), codebook)
    assert np.isnan(distances).tolist() == masked.mask.any(1).tolist()
    without = nearest_code(np.ma.masked_array(z), codebook)
    np.testing.assert_array_equal(without, nearest_code(z, codebook))


class Guarded(np.ndarray):
    """A subclass whose own indexing must not be used."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("indexed")


@pytest.mark.parametrize("kind", [np.matrix, Guarded])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_subclasses_are_plain_arrays(kind: type[np.ndarray]) -> None:
    z, codebook = made((6, 4)), made((5, 4), seed=1)
    expected = nearest_code(z, codebook)
    found = nearest_code(z.view(kind), codebook.view(kind))
    assert [type(array) for array in found] == [np.ndarray, np.ndarray]
    np.testing.assert_array_equal(found, expected)
    if kind is Guarded:
        heads = nearest_code(z[None].view(kind), codebook[None].view(kind))
        np.testing.assert_array_equal([array[0] for array in heads], expected)


def test_read_only_and_foreign_memory() -> None:
    z, codebook = made((6, 4)), made((5, 4), seed=1)
    expected = nearest_code(z, codebook)
    z.flags.writeable = codebook.flags.writeable = False
    np.testing.assert_array_equal(nearest_code(z, codebook), expected)
    unaligned = np.frombuffer(b"x" + z.tobytes(), np.float32, z.size, offset=1).reshape(6, 4)
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(nearest_code(unaligned, codebook), expected)
    heads = nearest_code(unaligned[None], codebook[None])
    np.testing.assert_array_equal([array[0] for array in heads], expected)
    np.testing.assert_array_equal(nearest_code(memoryview(z), memoryview(codebook)), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_negative_strides(dtype: type) -> None:
    z, codebook = made((16, 6), dtype), made((10, 6), dtype, seed=1)
    for rows, columns in ((-1, 1), (1, -1), (-1, -1), (-3, -2)):
        found = nearest_code(z[::rows, ::columns], codebook[::rows, ::columns])
        copies = z[::rows, ::columns].copy(), codebook[::rows, ::columns].copy()
        np.testing.assert_array_equal(found, nearest_code(*copies))
        heads = nearest_code(z[None, ::rows, ::columns], codebook[None, ::rows, ::columns])
        np.testing.assert_array_equal([array[0] for array in heads], found)


@pytest.mark.parametrize(
    ("z_shape", "codebook_shape"),
    [
        ((0, 4), (5, 4)),
        ((3, 0, 4), (5, 4)),
        ((0, 3, 4), (5, 4)),
        ((2, 0, 3, 4), (5, 4)),
        ((2, 0, 4), (2, 5, 4)),
        ((0, 3, 4), (0, 5, 4)),
        ((2, 0, 3, 4), (2, 0, 5, 4)),
    ],
    ids=str,
)
def test_nothing_to_search_for(z_shape: tuple, codebook_shape: tuple) -> None:
    for dtype in (np.float32, np.float64):
        indices, distances = nearest_code(made(z_shape), made(codebook_shape, dtype))
        assert indices.shape == distances.shape == z_shape[:-1]
        assert (indices.dtype, distances.dtype) == (np.int64, dtype)


@pytest.mark.parametrize("dim", [1, 2])
def test_more_pairs_than_2_to_the_31(dim: int) -> None:
    """A million rows that are one in memory, against 4096 codes; and the other way round."""
    row, codebook = made((1, dim)), made((4096, dim), seed=1)
    index, distance = nearest_code(row, codebook)
    rows = np.broadcast_to(row, (1 << 20, dim))
    for precision in ("exact", "fast"):
        indices, distances = nearest_code(rows, codebook, precision, num_threads=2)
        assert (indices == index).all() and (distances == distance).all()
    codes = np.broadcast_to(row, (1 << 20, dim))
    indices, _ = nearest_code(np.concatenate([codebook[:2047], row + 1]), codes, num_threads=2)
    assert (indices == 0).all()


def test_a_result_that_no_memory_holds() -> None:
    rows = np.broadcast_to(np.float32(0), (1 << 58, 1))
    with pytest.raises(MemoryError, match="Unable to allocate"):
        nearest_code(rows, made((5, 1)))


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, numpy; from vqgan_fast.numpy import nearest_code; "
        "nearest_code(numpy.ones((2, 3)), numpy.ones((4, 3))); "
        "nearest_code(numpy.ones((2, 2, 3)), numpy.ones((2, 4, 3)), num_threads=2); "
        "print('torch' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"
