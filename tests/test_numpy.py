"""`vqgan_fast.numpy.nearest_code` against a plain fp64 loop, in every layout and dtype."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

from vqgan_fast.numpy import nearest_code

DTYPES = [np.float16, np.float32, np.float64]


def oracle(z: np.ndarray, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index and squared distance summed in fp64 over ascending d, ties to the lowest index.

    The library rounds each square and its addition once (fma), this loop twice: the square of a
    difference of two fp16 or fp32 numbers of like size is exact in fp64, so that nothing differs.
    """
    distances = np.zeros((*z.shape[:-1], len(codebook)))
    for d in range(z.shape[-1]):
        difference = z[..., d, None].astype(np.float64) - codebook[:, d].astype(np.float64)
        distances += difference * difference
    return distances.argmin(-1), distances.min(-1)


def made(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(z: np.ndarray, codebook: np.ndarray, **options: int) -> None:
    indices, distances = nearest_code(z, codebook, **options)
    expected_indices, expected_distances = oracle(z, codebook)
    wide = np.float64 in (z.dtype, codebook.dtype)
    assert indices.dtype == np.int64
    assert distances.dtype == (np.float64 if wide else np.float32)
    np.testing.assert_array_equal(indices, expected_indices)
    # One rounding to fp32, or a reordering of roundings in fp64.
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-14 if wide else 6e-8)


@pytest.mark.parametrize("dim", [1, 3, 7, 8, 9, 31, 33, 256])
@pytest.mark.parametrize("num_codes", [1, 5, 67])
def test_against_the_oracle(dim, num_codes):
    check(made((37, dim)), made((num_codes, dim), seed=1))


@pytest.mark.parametrize("z_dtype", DTYPES)
@pytest.mark.parametrize("codebook_dtype", DTYPES)
def test_dtypes_alone_and_mixed(z_dtype, codebook_dtype):
    check(made((29, 6), z_dtype), made((33, 6), codebook_dtype, seed=1))


def test_ties_go_to_the_lowest_index():
    codebook = np.repeat(np.arange(8, dtype=np.float32)[:, None], 3, axis=1)
    codebook = np.concatenate([codebook, codebook])
    z = codebook + np.float32(0.5)
    check(z, codebook)
    assert nearest_code(z, codebook, return_distance=False).max() < 8


def test_clusters_far_from_the_origin_need_fp64():
    z = made((64, 16)) * np.float32(1e-3) + np.float32(100)
    codebook = made((256, 16), seed=1) * np.float32(1e-3) + np.float32(100)
    check(z, codebook)


def strided_views(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Arrays of one shape (B, N, D), each with other strides."""
    b, n, d = shape
    padded = made((b, n, d + 5))
    channels_first = np.moveaxis(made((b, d, 2, n // 2)), 1, -1)
    fields = np.zeros(shape, dtype=[("flag", "u1"), ("value", "f4")])
    fields["value"] = made(shape)
    return {
        "contiguous": made(shape),
        "columns of a wider matrix": padded[..., 2 : d + 2],
        "every second column": made((b, n, 2 * d))[..., ::2],
        "channels first, one row axis more": channels_first,
        "axes reversed": made((d, n, b)).transpose(2, 1, 0),
        "backwards": made(shape)[:, ::-1, ::-1],
        "broadcast": np.broadcast_to(made((1, n, 1)), shape),
        "three row strides": made((2 * b, 2, n, d))[::2, :, ::2],
        "a field of packed records": fields["value"],
    }


@pytest.mark.parametrize("layout", strided_views((2, 6, 4)))
def test_layouts_of_z(layout):
    check(strided_views((2, 6, 4))[layout], made((11, 4), seed=1))


def test_layouts_of_the_codebook():
    z = made((13, 4))
    for codebook in (made((4, 11), seed=1).T, made((22, 8), seed=1)[::-2, ::2]):
        check(z, codebook)


def test_threads_give_the_same_result():
    z, codebook = made((1000, 8)), made((100, 8), seed=1)
    indices, distances = nearest_code(z, codebook)
    for num_threads in (2, 3, 16):
        others = nearest_code(z, codebook, num_threads=num_threads)
        np.testing.assert_array_equal(others[0], indices)
        np.testing.assert_array_equal(others[1], distances)


def test_a_codebook_for_each_head():
    z, codebook = made((2, 3, 17, 4)), made((2, 3, 9, 4), seed=1)
    indices, distances = nearest_code(z, codebook)
    assert indices.shape == distances.shape == (2, 3, 17)
    for head in np.ndindex(2, 3):
        expected = oracle(z[head], codebook[head])
        np.testing.assert_array_equal(indices[head], expected[0])
        np.testing.assert_allclose(distances[head], expected[1], rtol=6e-8)
    np.testing.assert_array_equal(nearest_code(z, codebook, return_distance=False), indices)


@pytest.mark.parametrize("layout", strided_views((2, 6, 4)))
def test_layouts_with_a_codebook_for_each_head(layout):
    z = strided_views((2, 6, 4))[layout]
    codebook = made((2 * z.shape[0], 4, *z.shape[1:-2], 9), seed=1)[::-2]
    codebook = np.moveaxis(codebook, 1, -1)
    indices, distances = nearest_code(z, codebook)
    for head in np.ndindex(z.shape[:-2]):
        expected = oracle(z[head], codebook[head])
        np.testing.assert_array_equal(indices[head], expected[0])
        np.testing.assert_allclose(distances[head], expected[1], rtol=6e-8)


def test_the_same_as_the_torch_op():
    import torch

    from vqgan_fast import ops

    z, codebook = made((50, 12)), made((40, 12), seed=1)
    indices, distances = nearest_code(z, codebook)
    op_indices, op_distances = ops.nearest_code(torch.from_numpy(z), torch.from_numpy(codebook))
    np.testing.assert_array_equal(indices, op_indices.numpy())
    np.testing.assert_array_equal(distances, op_distances.numpy())


def test_fast_is_close_to_the_nearest():
    z, codebook = made((200, 16)), made((300, 16), seed=1)
    indices, distances = nearest_code(z, codebook, precision="fast")
    own = ((z.astype(np.float64) - codebook[indices]) ** 2).sum(-1)
    np.testing.assert_allclose(distances, own, rtol=6e-8)
    np.testing.assert_allclose(distances, oracle(z, codebook)[1], rtol=1e-5)


def test_rows_and_codes_that_are_not_finite():
    z, codebook = made((4, 3)), made((6, 3), seed=1)
    z[1, 2], z[3, 0] = np.nan, np.inf
    codebook[0, 1] = np.nan
    indices, distances = nearest_code(z, codebook)
    assert indices[[1, 3]].tolist() == [0, 0]
    assert np.isnan(distances).tolist() == [False, True, False, True]
    assert 0 not in indices[[0, 2]]


def test_no_rows():
    indices, distances = nearest_code(np.empty((3, 0, 4), np.float32), made((5, 4)))
    assert indices.shape == distances.shape == (3, 0)


def test_lists_are_arrays_too():
    indices, distances = nearest_code([[0.9], [2.2]], [[0.0], [1.0], [2.0]])
    assert indices.tolist() == [1, 2]
    np.testing.assert_allclose(distances, [0.01, 0.04], rtol=1e-14)


@pytest.mark.parametrize("heads", [(), (2,)], ids=["one codebook", "heads"])
def test_the_gil_is_released_meanwhile(heads):
    """Another thread runs during the call, though the interpreter never switches by itself."""
    started, ran = threading.Event(), []

    def other() -> None:
        started.wait()
        ran.append(True)

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    z, codebook = made((*heads, 4000, 64)), made((*heads, 2000, 64), seed=1)
    thread.start()
    sys.setswitchinterval(1000)
    try:
        started.set()
        # Where the cores are busy, a call may end before the thread has its turn.
        for _ in range(500):
            nearest_code(z, codebook)
            if ran_during_a_call := bool(ran):
                break
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert ran_during_a_call


def test_fewer_threads_do_where_the_system_gives_no_more():
    """Stacks of 1 GiB in an address space that has room for three of them."""
    code = """
import resource
from pathlib import Path
import numpy as np
from vqgan_fast.numpy import nearest_code
z = np.random.default_rng(0).standard_normal((2000, 2))
expected = nearest_code(z, z[:600])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (7 << 29), used + (7 << 29)))
found = nearest_code(z, z[:600], num_threads=16)
print(all(map(np.array_equal, found, expected)))
"""
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 30, most)),
    ).stdout
    assert output.strip() == "True"
