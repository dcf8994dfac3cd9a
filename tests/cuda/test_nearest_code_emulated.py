"""nearest_code as each generation of GPUs searches it, end to end, against the definition.

The kernels are the ones that nvcc compiles; mma.sync, ldmatrix, cp.async, wgmma, mbarriers and bulk
copies are emulated (emulated/kernels/cuda). What only a GPU can show: docs/gpu_status.md.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import CASES

# Which search a compute capability plans where there is enough to do.
WAY_OF = {75: "direct", 80: "mma", 86: "mma", 90: "wgmma", 120: "mma"}
GENERATIONS = pytest.mark.parametrize("capability", WAY_OF)
# One of each kernel; the others differ in the shared memory they allow.
KERNELS = pytest.mark.parametrize("capability", [75, 80, 90])
HALVES = (torch.float32, torch.bfloat16, torch.float16)


def assert_same_search(kernels, z, codebook, capability, **options):
    options.setdefault("way", WAY_OF[capability])
    expected_indices, expected_distances = kernels.oracle(z, codebook)
    indices, distances = kernels.nearest_code(z, codebook, **options)
    wrong = (indices != expected_indices).sum().item()
    assert wrong == 0, f"{wrong} of {indices.numel()} indices differ"
    assert torch.equal(distances.nan_to_num(-1), expected_distances.nan_to_num(-1))


@KERNELS
@pytest.mark.parametrize("case", CASES)
def test_where_it_goes_wrong_easily(kernels, case, capability):
    torch.manual_seed(0)
    kernels.emulate(3, 2, capability)
    for n, k, d in ((40, 300, 6), (33, 150, 70)):
        assert_same_search(kernels, *CASES[case](n, k, d), capability)


@KERNELS
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 11, 16, 31, 32, 33, 48, 63, 65, 100, 128, 129, 256])
def test_every_number_of_columns(kernels, dim, capability):
    torch.manual_seed(dim)
    kernels.emulate(capability=capability)
    assert_same_search(kernels, *CASES["near_ties"](20, 140, dim), capability)


def test_more_columns_than_wgmma_has_room_for(kernels):
    torch.manual_seed(0)
    for dim in (257, 520):
        for capability, way in ((90, "wgmma"), (120, "mma")):  # which is not possible, and mma
            kernels.emulate(capability=capability)
            assert_same_search(kernels, *CASES["near_ties"](9, 40, dim), capability, way=way)


@GENERATIONS
@pytest.mark.parametrize(
    ("num_rows", "num_codes"), [(1, 1), (64, 128), (65, 129), (257, 20), (3, 700)]
)
def test_edges_of_tiles_and_splits(kernels, num_rows, num_codes, capability):
    torch.manual_seed(0)
    z, codebook = CASES["gaussian"](num_rows, num_codes, 12)
    for multiprocessors in (1, 5):
        kernels.emulate(multiprocessors, capability=capability)
        assert_same_search(kernels, z, codebook, capability)


def test_many_pieces_of_work_for_a_persistent_block(kernels):
    torch.manual_seed(0)
    # Two sets of rows in shared memory, and one; every stage is used again and again.
    for num_codes, dim in ((1500, 8), (700, 130)):
        for schedule in (2, 3):
            kernels.emulate(1, schedule, capability=90)
            assert_same_search(kernels, *CASES["near_ties"](520, num_codes, dim), 90)


@KERNELS
def test_rows_in_several_chunks(kernels, capability):
    torch.manual_seed(0)
    z, codebook = CASES["near_ties"](700, 140, 9)
    z[300:] = z[300:].round()  # open rows in one chunk and not in another
    codebook[:4] = codebook[:4].round()
    kernels.emulate(capability=capability)
    assert_same_search(kernels, z, codebook, capability, rows=256)


@KERNELS
def test_every_pair_of_dtypes(kernels, capability):
    torch.manual_seed(0)
    kernels.emulate(capability=capability)
    for z_dtype, codebook_dtype in itertools.product(HALVES, HALVES):
        z, codebook = CASES["near_ties"](20, 60, 40)
        assert_same_search(kernels, z.to(z_dtype), codebook.to(codebook_dtype), capability)


@KERNELS
def test_strided_rows_are_read_in_place(kernels, capability):
    torch.manual_seed(0)
    kernels.emulate(capability=capability)
    images = torch.randn(3, 40, 4, 5).movedim(1, -1)
    assert_same_search(kernels, images, torch.randn(80, 70).t()[:, ::2], capability)
    assert_same_search(
        kernels, torch.randn(30, 48)[1::2, ::3], torch.randn(50, 17)[:, 1:], capability
    )


@KERNELS
@pytest.mark.parametrize("schedule", [0, 1, 2, 3, -1, -2])
def test_no_order_of_threads_matters(kernels, schedule, capability):
    torch.manual_seed(0)
    kernels.emulate(2, schedule, capability)
    assert_same_search(kernels, *CASES["near_ties"](140, 270, 80), capability)


@KERNELS
def test_equal_codes_give_the_lowest(kernels, capability):
    torch.manual_seed(0)
    few = torch.randn(7, 24).round()
    codebook = few[torch.arange(400) % 7]
    kernels.emulate(4, 2, capability)
    assert_same_search(kernels, torch.cat([few, (few[:1] + few[1:2]) / 2]), codebook, capability)


@KERNELS
@pytest.mark.parametrize("near", [2, 3, 4, 12])
def test_codes_that_a_class_gave_up(kernels, near, capability):
    """Of several codes at almost one distance, some share a class, in other tiles.

    Few of them leave a row crowded, many leave it open.
    """
    torch.manual_seed(near)
    for multiprocessors, dtype in ((1, torch.float32), (3, torch.float32), (2, torch.float16)):
        z, codebook = 3 * torch.randn(40, 36), 3 * torch.randn(2900, 36)
        steps = torch.nn.functional.normalize(torch.randn(40, near, 36), dim=-1)
        places = torch.randperm(2900)[: 40 * near]
        codebook[places] = (z[:, None] + steps).flatten(0, 1)
        codebook[-1] = z[-1] + steps[0, 0] * (1 - 1e-5)  # in a tile that is not full
        kernels.emulate(multiprocessors, 2, capability)
        assert_same_search(kernels, z.to(dtype), codebook.to(dtype), capability)
    # So few rows that each has a warp, and one multiprocessor, so that a split has many tiles.
    kernels.emulate(1, 2, capability)
    assert_same_search(kernels, z[:7], codebook, capability)


@pytest.mark.parametrize("near", [2, 12])
def test_lists_of_the_direct_way(kernels, near):
    """A codebook that is too large for lanes to scan: crowded rows, and open ones."""
    torch.manual_seed(near)
    k, d = 1090, 1000
    assert k * d > 2**20  # kScanElements
    z, codebook = torch.randn(10, d), torch.randn(k, d)
    steps = torch.nn.functional.normalize(torch.randn(10, near, d), dim=-1)
    # Of neighbouring tiles and one class, or of all classes.
    places = torch.arange(10 * near) * 64 % k if near == 2 else torch.randperm(k)[: 10 * near]
    codebook[places] = (z[:, None] + steps).flatten(0, 1)
    kernels.emulate(1, 2, 75)
    assert_same_search(kernels, z, codebook, 75)


@KERNELS
@pytest.mark.parametrize(("near", "count"), [(2, 540), (12, 90)])
def test_lists_of_several_chunks(kernels, near, count, capability):
    """The lists of a chunk begin anew: those of all together have no room."""
    torch.manual_seed(near)
    z, codebook = 3 * torch.randn(540, 20), 3 * torch.randn(1280, 20)
    steps = torch.nn.functional.normalize(torch.randn(count, near, 20), dim=-1)
    rows = torch.randperm(540)[:count]
    # Two codes in one class of neighbouring tiles, or many in all classes.
    places = torch.arange(1280).view(5, 2, 128).mT.flatten() if near == 2 else torch.randperm(1280)
    codebook[places[: count * near]] = (z[rows, None] + steps).flatten(0, 1)
    kernels.emulate(1, 2, capability)
    assert_same_search(kernels, z, codebook, capability, rows=256)


@KERNELS
def test_fast_finds_what_no_rounding_decides(kernels, capability):
    torch.manual_seed(0)
    kernels.emulate(capability=capability)
    for case in ("gaussian", "not_finite", "all_nan", "no_finite_code"):
        assert_same_search(kernels, *CASES[case](50, 300, 40), capability, exact=False)


def test_fp64_is_searched_by_the_definition(kernels):
    torch.manual_seed(0)
    kernels.emulate(capability=90)
    z, codebook = CASES["far_latents"](50, 90, 10)
    for way in (None, "direct", "mma", "wgmma"):
        assert_same_search(kernels, z.double(), codebook, 90, way=way)
        assert_same_search(kernels, z, codebook.double(), 90, way=way)


def test_the_plans_own_choice(kernels):
    torch.manual_seed(0)
    for capability in WAY_OF:
        kernels.emulate(capability=capability)
        assert_same_search(kernels, *CASES["clustered"](60, 90, 20), capability, way=None)
