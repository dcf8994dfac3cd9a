"""Which way nearest_code goes on a GPU, and how it is cut: host code, without a GPU."""

from __future__ import annotations

import ctypes

import pytest
from ring_cases import RING_PLANS

MIB = 1 << 20
ROW_TILE = {"direct": 32, "mma": 128, "wgmma": 256}
# The shapes that the goals are set for.
SHAPES = [(65536, 16384, 256), (65536, 8192, 8), (8192, 262144, 256), (256, 1024, 256)]


def choose(kernels, n, k, d, capability, fp64=False):
    function = kernels.library.choose_way
    function.restype = ctypes.c_int64
    arguments = (n, k, d, int(fp64), capability, 132)
    way = function(*(ctypes.c_int64(a) for a in arguments))
    return ("exact", "direct", "mma", "wgmma")[way]


def test_the_way_is_the_generations(kernels):
    large = SHAPES[0]
    ways = {c: choose(kernels, *large, c) for c in (75, 80, 86, 87, 89, 90, 100, 110, 120)}
    assert ways == dict.fromkeys(ways, "mma") | {75: "direct", 90: "wgmma"}


def test_the_way_follows_the_sizes(kernels):
    assert [choose(kernels, *shape, 90) for shape in SHAPES] == ["wgmma"] * 3 + ["direct"]
    assert choose(kernels, 1, 262144, 256, 90) == "direct"
    assert choose(kernels, 65536, 8192, 257, 90) == "mma", "256 rows do not fit"
    assert choose(kernels, 65536, 8192, 1024, 90) == "mma"
    assert choose(kernels, 65536, 8192, 1025, 90) == "direct", "beyond what the bound is for"
    assert choose(kernels, *SHAPES[0], 90, fp64=True) == "exact"


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_sums_of_fp32_are_not_taken_where_they_are_no_limit(kernels, capability):
    """The limit of direct distances divides by 1 - 2 (D + 8) 2^-24: docs/numerics.md."""
    for rows in (1, 65536):  # few products, and many
        assert choose(kernels, rows, 2, 2**21, capability) == "direct"
        for dim in (2**21 + 1, 2**23 - 8, 2**24):
            assert choose(kernels, rows, 2, dim, capability) == "exact"


@pytest.mark.parametrize("way", ROW_TILE)
@pytest.mark.parametrize("num_rows", [1, 31, 257, 65536, 2**31 + 5])
@pytest.mark.parametrize("num_codes", [1, 65, 1000, 262144, 2**31 - 1])
@pytest.mark.parametrize("multiprocessors", [1, 16, 132])
def test_every_row_and_code_once(kernels, way, num_rows, num_codes, multiprocessors):
    for dim in (1, 8, 64, 256):
        plan = kernels.plan_search(num_rows, num_codes, dim, way, multiprocessors)
        assert plan["chunk_rows"] == num_rows or plan["chunk_rows"] % 256 == 0
        assert plan["chunk_rows"] <= 2**18
        rows = plan["row_tiles"] * ROW_TILE[way]
        assert rows - ROW_TILE[way] < plan["chunk_rows"] <= rows
        codes = plan["code_tiles"] * plan["tile_codes"]
        assert codes - plan["tile_codes"] < num_codes <= codes
        tiles, per_split = plan["code_tiles"], plan["tiles_per_split"]
        assert (plan["splits"] - 1) * per_split < tiles <= plan["splits"] * per_split
        assert plan["splits"] * plan["row_tiles"] < 2**31, "the limit of a grid"
        assert plan["tile_codes"] % (8 * plan["groups"]) == 0
        # Splits are for filling the GPU. Each costs memory for every row.
        assert plan["splits"] == 1 or plan["row_tiles"] * (plan["splits"] - 1) < 8 * multiprocessors


@pytest.mark.parametrize("shape", SHAPES)
def test_the_goals_shapes_keep_the_gpu_busy(kernels, shape):
    way = choose(kernels, *shape, 90)
    plan = kernels.plan_search(*shape, way, 132)
    blocks = plan["row_tiles"] * plan["splits"]
    at_a_time = 3 * 132 if way == "direct" else 132
    waves = -(-blocks // at_a_time)
    assert plan["scan_in_finish"] == (way == "direct")
    if way != "direct":
        share = (
            plan["row_tiles"] * plan["code_tiles"] / (waves * at_a_time * plan["tiles_per_split"])
        )
        assert share > 0.9
    else:
        assert blocks >= 0.9 * 132


def test_scratch_memory_does_not_grow_with_the_product(kernels):
    def scratch(*shape):
        return kernels.plan_search(*shape, "wgmma", 132)["bytes"]

    assert scratch(65536, 262144, 256) < 300 * MIB, "the goal is 1 GB"
    assert scratch(10**8, 8192, 256) < 300 * MIB
    # A codebook's image is half of it in fp32; 2^18 rows are the most at a time.
    assert scratch(1000, 2**20, 256) < 2**20 * 256 * 2 + 32 * MIB
    assert scratch(2**40, 8192, 8) == scratch(2**18, 8192, 8)


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 5000, 64 * 264, 2**18])
@pytest.mark.parametrize("num_codes", [1, 64, 65, 16384, 2**31])
@pytest.mark.parametrize("blocks", [2, 30, 264])
def test_partial_results_of_the_fp64_search_have_room(kernels, num_rows, num_codes, blocks):
    library = kernels.library
    library.exact_splits.restype = library.exact_partials.restype = ctypes.c_int64
    splits = library.exact_splits(*(ctypes.c_int64(a) for a in (num_rows, num_codes, blocks)))
    assert 1 <= splits <= -(-num_codes // 64)
    assert splits == 1 or splits * num_rows <= library.exact_partials(ctypes.c_int64(blocks))
    tiles = -(-num_rows // 64)
    if tiles < blocks and num_codes >= 64 * blocks:
        assert 2 * splits * tiles >= blocks, "few rows are no work for a whole GPU"


@pytest.mark.parametrize(("tile_codes", "groups"), [(64, 4), (128, 2), (128, 4), (128, 8)])
def test_classes_cut_a_tile_into_disjoint_parts(kernels, tile_codes, groups):
    function = kernels.library.class_code
    function.restype = ctypes.c_int64
    codes = [
        [
            function(*(ctypes.c_int64(a) for a in (tile_codes, groups, 5, c, i)))
            for i in range(tile_codes // (4 * groups))
        ]
        for c in range(4 * groups)
    ]
    assert all(ascending == sorted(ascending) for ascending in codes)
    everything = sorted(code for some in codes for code in some)
    assert everything == list(range(5 * tile_codes, 6 * tile_codes))


@pytest.mark.parametrize("shape", RING_PLANS)
def test_rings_wrap_where_the_tests_on_a_gpu_want_it(kernels, shape):
    """Stages of wgmma have 64 columns and its ring 8 of them at most; of mma.sync, 32 and 3."""
    items, least_stages, blocks, stages = RING_PLANS[shape]
    plan = kernels.plan_search(*shape, "wgmma", 132)
    assert plan["row_tiles"] * plan["splits"] == items
    # The last split may have fewer tiles than the others: here none has.
    assert plan["splits"] * plan["tiles_per_split"] == plan["code_tiles"]
    per_item = plan["tiles_per_split"] * -(-plan["depth"] // 64)
    assert items // min(items, 132) * per_item == least_stages > 8
    plan = kernels.plan_search(*shape, "mma", 132)
    assert plan["splits"] * plan["tiles_per_split"] == plan["code_tiles"]
    assert plan["row_tiles"] * plan["splits"] == blocks
    assert plan["tiles_per_split"] * -(-plan["depth"] // 32) == stages > 2 * 3
