"""Every way that a search can go finds the same codes: forced, and as the op chooses."""

from __future__ import annotations

import itertools

import pytest
import torch
from search_cases import CASES, assert_is_oracle, oracle
from torch import Tensor

from vqgan_fast import ops

WAYS = ("direct", "fp32", "int16", "int8", "boxes")


def calls(way: str) -> int:
    """Searches since the test began; all of them went this way."""
    counters = ops.nearest_code_counters()
    by_way = {name: counters[f"calls_{name}"] for name in WAYS}
    if way != "auto":
        assert by_way[way] == sum(by_way.values())
    return sum(by_way.values())


@pytest.mark.parametrize("case", CASES)
def test_every_data_set(case: str, way: str) -> None:
    for n, k, d in ((110, 300, 3), (100, 200, 8), (130, 150, 16), (100, 170, 40)):
        z, codebook = CASES[case](n, k, d)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def test_every_size(way: str) -> None:
    for n, k, d in itertools.product((1, 5, 25, 97), (1, 2, 63, 64, 65, 129), (1, 2, 9, 15, 33)):
        z, codebook = CASES["near_ties"](n, k, d)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
    assert calls("auto") == 4 * 6 * 5


def test_wide_rows(way: str) -> None:
    for d in (255, 512, 1000):
        for case in ("gaussian", "near_ties", "offset"):
            z, codebook = CASES[case](30, 70, d)
            assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


@pytest.mark.usefixtures("restore_threads")
def test_threads_share_codes_and_rows(way: str) -> None:
    for n, k, d in ((3, 3000, 4), (30, 3000, 16), (700, 700, 8)):
        for case in ("near_ties", "duplicates", "not_finite"):
            z, codebook = CASES[case](n, k, d)
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def test_nothing_behind_the_last_code_is_chosen(way: str) -> None:
    """The latents themselves lie there, the nearest that there could be; some of them are so far
    away that a screen no longer tells codes from what it fills its last panel with."""
    for k, d in itertools.product((1, 7, 10, 31, 65), (1, 4, 9, 16, 33)):
        z = torch.randn(25, d) * torch.logspace(0, 9, 25)[:, None]
        codebook = torch.cat([torch.randn(k, d), z, z, z])[:k]
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
        codebook[k // 2, d // 2] = torch.nan
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def test_every_branch_of_boxes(way: str) -> None:
    """So many latents among so many codes that some lie beside each side of each box."""
    for d in (2, 3, 5):
        z, codebook = torch.randn(1200, d), torch.randn(5000, d)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def test_forced_ways_are_taken(way: str) -> None:
    z, codebook = CASES["gaussian"](400, 300, 8)
    for _ in range(3):
        ops.nearest_code(z, codebook)
    assert calls(way) == 3


def test_counters_add_up(way: str) -> None:
    num_rows = 0
    for case, n in itertools.product(
        ("gaussian", "clustered", "not_finite", "collapsed"), (40, 500)
    ):
        z, codebook = CASES[case](n, 700, 12)
        ops.nearest_code(z, codebook)
        num_rows += n
    counters = ops.nearest_code_counters(reset=True)
    assert sum(count for name, count in counters.items() if name.startswith("rows")) == num_rows
    assert counters["rows_not_finite"] == sum(
        int((~CASES["not_finite"](n, 700, 12)[0].isfinite().all(1)).sum()) for n in (40, 500)
    )
    assert not any(ops.nearest_code_counters().values())


def test_rows_that_only_some_blocks_leave_open(way: str) -> None:
    """Blocks of clustered latents among Gaussian ones: the search goes from one pass to another."""
    z, codebook = CASES["gaussian"](3000, 400, 24)
    near, cluster = CASES["clustered"](1500, 400, 24)
    z[700:2200] = near
    codebook = torch.cat([codebook, cluster])
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def latents_amid_codes(n: int, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Codes on a sphere: no box of them can be left out for a latent in its middle."""
    codebook = torch.nn.functional.normalize(torch.randn(k, d), dim=1)
    return 1e-3 * torch.randn(n, d), codebook


@pytest.mark.usefixtures("restore_threads")
def test_some_latents_tell_nothing_of_the_others(way: str) -> None:
    """The first block among the boxes is slow; what comes behind it is ordinary and stays there."""
    z, codebook = latents_amid_codes(110, 8192, 4)
    z[24:] = torch.nn.functional.normalize(torch.randn(86, 4), dim=1)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ops.nearest_code_counters(reset=True)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
        if way in ("auto", "boxes"):
            assert ops.nearest_code_counters()["rows_direct"] <= 24


@pytest.mark.usefixtures("restore_threads")
def test_boxes_that_leave_nothing_out(way: str) -> None:
    """Rows go on to another screen, if there may be one, and else stay."""
    z, codebook = latents_amid_codes(1000, 4096, 4)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ops.nearest_code_counters(reset=True)
        assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))
        if way == "boxes":
            assert ops.nearest_code_counters()["rows_direct"] == 0


def test_fast_chooses_among_the_nearest(way: str) -> None:
    z, codebook = CASES["clustered"](300, 400, 16)
    indices, _ = ops.nearest_code(z, codebook, precision="fast")
    chosen = (z.double() - codebook[indices].double()).square().sum(1)
    assert (chosen - oracle(z, codebook)[1]).max() < 1e-4


def test_z_q_of_every_way(way: str) -> None:
    images = torch.randn(3, 20, 9, 7)
    images[1, 3, 2, 2] = torch.nan
    codebook = CASES["duplicates"](1, 300, 20)[1]
    z = images.movedim(1, -1)
    z_q, indices, commitment_loss, _ = ops.vector_quantize(z, codebook)
    assert torch.equal(indices, oracle(z, codebook)[0])
    expected = z + (codebook[indices] - z)
    assert torch.equal(z_q.nan_to_num(9), expected.nan_to_num(9))
    assert commitment_loss.isnan()


def test_bad_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQGAN_FAST_SCREEN", "best")
    message = (
        "VQGAN_FAST_SCREEN must be auto, direct, fp32, int16, int8, boxes or clusters, got best"
    )
    with pytest.raises(RuntimeError, match=message):
        ops.nearest_code(torch.zeros(1, 1), torch.zeros(1, 1))
