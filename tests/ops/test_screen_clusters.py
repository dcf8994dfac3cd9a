"""Codes that crowd: tight clusters, shells, and what is left of both, each searched by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from search_cases import oracle
from search_ways import LEVELS, cpu_levels, force_way
from torch import Tensor
from torch.nn.functional import normalize

from vqgan_fast import ops
from vqgan_fast.numpy import nearest_code

K, ROWS = 1200, 250  # enough codes for a sample, enough rows for a second screen


WAYS = [("clusters", level) for level in LEVELS] + [("auto", cpu_levels()[-1])]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of all ways the one that looks for clusters at once, and what the op chooses."""
    return force_way(*request.param, monkeypatch)


def check(z: Tensor, codebook: Tensor) -> dict[str, int]:
    """Twice, because clusters are sooner looked for in a codebook that comes again; returns what
    counted in the second call. The third time without distances: what a screen proves is then not
    measured."""
    indices, distances = oracle(z, codebook)
    for _ in range(2):
        ops.nearest_code_counters(reset=True)
        found = ops.nearest_code(z, codebook)
        assert torch.equal(found[0], indices)
        assert torch.equal(found[1].nan_to_num(-1), distances.to(found[1].dtype).nan_to_num(-1))
    counters = ops.nearest_code_counters()
    if z.dtype in (torch.float32, torch.float64):
        found = nearest_code(z.numpy(), codebook.numpy(), return_distance=False)
        assert torch.equal(torch.from_numpy(found), indices)
    return counters


def near(codebook: Tensor, width: float) -> Tensor:
    """Rows among the codes."""
    return codebook[torch.randint(len(codebook), (ROWS,))] + width * torch.randn(
        ROWS, codebook.shape[1]
    )


def clusters(d: int, count: int = 5, width: float = 1e-4) -> Tensor:
    """Each with as many codes, one after the other in turn."""
    return torch.randn(count, d)[torch.arange(K) % count] + width * torch.randn(K, d)


def unused(d: int) -> Tensor:
    """A codebook of which most is as VQGAN's initialisation left it."""
    codebook = torch.empty(K, d).uniform_(-1 / K, 1 / K)
    codebook[torch.randperm(K)[: K // 8]] = torch.randn(K // 8, d)
    return codebook


def norms_of_many_orders(d: int) -> Tensor:
    return normalize(torch.randn(K, d), dim=1) * 10 ** (6 * torch.rand(K, 1) - 3)


def two_dense_places(d: int) -> Tensor:
    codebook = normalize(torch.randn(K, d), dim=1) * 10 ** (3 * torch.rand(K, 1) - 1)
    codebook[::2] += 1e4
    return codebook


def one_far_code(d: int) -> Tensor:
    codebook = torch.randn(K, d)
    codebook[77] *= 1e5
    return codebook


def clusters_of_clusters(d: int) -> Tensor:
    """Of which one has more codes than the others together, and some codes are in none."""
    codebook = clusters(d, 4, 1e-2)
    codebook[: K // 2] = clusters(d, 3, 1e-5)[: K // 2] * 1e-2 + 3
    codebook[::50] = torch.randn(K // 50, d)
    return codebook


CODEBOOKS: list[Callable[[int], Tensor]] = [
    clusters,
    unused,
    norms_of_many_orders,
    two_dense_places,
    one_far_code,
    clusters_of_clusters,
]


@pytest.mark.parametrize("make", CODEBOOKS)
@pytest.mark.parametrize("d", [9, 17, 64])
def test_rows_near_codes_and_far_from_them(make: Callable[[int], Tensor], d: int, way: str) -> None:
    codebook = make(d)
    counters = check(near(codebook, 1e-4), codebook)
    if way == "clusters":
        assert counters["calls_clusters"] == 1
        assert counters["rows_direct"] + counters["rows_scan"] < 0.02 * ROWS
    check(near(codebook, 0.3), codebook)
    check(torch.randn(ROWS, d) * torch.logspace(-6, 12, ROWS)[:, None], codebook)


@pytest.mark.parametrize("level", cpu_levels())
def test_clusters_follow_another_screen(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And hardly a row is searched directly."""
    force_way("auto", level, monkeypatch)
    codebook = clusters(64, 3)
    counters = check(near(codebook, 1e-4), codebook)
    assert counters["calls_clusters"] == 1
    assert counters["rows_direct"] + counters["rows_scan"] < 0.1 * ROWS


def test_clusters_follow_long_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 would list some 300 codes of each row, and leave none open."""
    force_way("auto", "avx512vnni", monkeypatch)
    codebook = torch.randn(13, 64)[torch.arange(4096) % 13] + 1e-4 * torch.randn(4096, 64)
    z = codebook[torch.randint(4096, (500,))] + 1e-4 * torch.randn(500, 64)
    counters = check(z, codebook)
    assert counters["calls_int8"] == counters["calls_clusters"] == 1


@pytest.mark.parametrize("level", cpu_levels())
def test_clusters_of_a_new_codebook_where_they_pay(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows are searched before clusters would be found, unless these are kept."""
    force_way("auto", level, monkeypatch)
    codebook = torch.randn(3, 64)[torch.arange(2048) % 3] + 1e-5 * torch.randn(2048, 64)
    z = codebook[torch.randint(2048, (4096,))] + 1e-5 * torch.randn(4096, 64)
    check(z[:128], codebook)  # the codebook is met
    assert check(z[:128], codebook)["calls_clusters"] == 1
    monkeypatch.setenv("VQGAN_FAST_CACHE_MB", "0")
    assert check(z[:128], codebook)["calls_clusters"] == 0
    assert check(z, codebook)["calls_clusters"] == 1


def test_no_clusters(way: str) -> None:
    """Ordinary codes are not split, whatever rows a screen leaves; nor are too few."""
    codebook = torch.randn(K, 64)
    assert check(near(codebook, 0.3), codebook)["calls_clusters"] == 0
    assert check(near(codebook, 0.3), clusters(64)[:200])["calls_clusters"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype: torch.dtype, way: str) -> None:
    codebook = clusters(24, width=1e-2 if dtype == torch.bfloat16 else 1e-3)
    check(near(codebook, 1e-3).to(dtype), codebook.to(dtype))


@pytest.mark.parametrize("scale", [1e-300, 1e-165, 1e-158, 1e-25, 1e25, 1e150, 1e155, 1e300])
def test_magnitudes(scale: float, way: str) -> None:
    """With squares that underflow or overflow, some or all of them."""
    dtype = torch.float32 if 1e-30 < scale < 1e30 else torch.float64
    for make in (clusters, norms_of_many_orders):
        codebook = make(12).to(dtype)
        z = near(codebook, 1e-4) * scale
        counters = check(z, codebook * scale)
        if way == "clusters" and 1e-30 < scale < 1e151:
            assert counters["calls_clusters"] == 1
        z[::2] *= 1e6
        check(z, codebook * scale)


def test_codes_that_are_none(way: str) -> None:
    codebook = clusters(16)
    z = near(codebook, 1e-4)
    codebook[::7, 3] = torch.nan
    codebook[::31, 5] = torch.inf
    check(z, codebook)
    codebook[::5] = torch.nan  # a cluster
    z[::3, 2] = torch.nan
    counters = check(z, codebook)
    if way == "clusters":
        assert counters["calls_clusters"] == 1
    codebook[torch.arange(K) % 5 != 2] = torch.inf  # too few are left for a sample
    check(z, codebook)


def test_what_is_left_is_not_finite(way: str) -> None:
    """No distance to it is a limit for others, nor is it ever passed over."""
    codebook = clusters(16, 3)
    z = near(codebook, 1.0)
    for value in (torch.nan, torch.inf):
        codebook[5::40, 3] = value
        counters = check(z, codebook)
        if way == "clusters":
            assert counters["calls_clusters"] == 1
            assert counters["rows_direct"] + counters["rows_scan"] < 0.02 * ROWS


def test_equal_codes(way: str) -> None:
    """A screen that packs the different ones alone numbers them anew, before clusters do."""
    codebook = clusters(24)
    codebook[torch.randperm(K)[: K // 2]] = codebook[torch.randint(K, (K // 2,))]
    check(near(codebook, 1e-4), codebook)
    codebook[K // 2 :] = codebook[1]  # of one cluster all are
    check(near(codebook, 1e-4), codebook)


def test_codes_in_columns(way: str) -> None:
    codebook = clusters(17)
    check(near(codebook, 1e-4), codebook.t().contiguous().t())


def test_codebooks_that_change(way: str) -> None:
    """What is kept is of the content, wherever the code lies that is another one by now."""
    codebook = unused(16)
    for code in range(0, K, 97):
        z = torch.cat([near(codebook, 1e-4), codebook[code : code + 1]])
        check(z, codebook)
        codebook[code] += 1e-3
        check(z, codebook)


def test_a_cluster_of_one_code(way: str) -> None:
    """It has no screen. Its code comes last, behind one that a screen has left."""
    for place in (3, K - 1):
        codebook = 1e-2 * torch.randn(K, 16)
        codebook[::2] += 10
        codebook[place] = torch.eye(16)[0]
        check(0.6 * torch.eye(16)[:1] + 1e-3 * torch.randn(ROWS, 16), codebook)


@pytest.mark.parametrize("d", [16, 72])
def test_a_tie_of_two_clusters(d: int, way: str) -> None:
    """Two clusters that mirror each other, and rows in the plane between: of both the nearest code
    is as near, to the bit, and the one with the lower index wins."""
    half = torch.randn(1, d) + 0.01 * torch.randn(K // 2, d)
    half[:, 0] = half[:, 0].abs() + 1
    mirrored = half.clone()
    mirrored[:, 0] *= -1
    codebook = torch.cat([half, mirrored])[torch.randperm(K)]
    z = half[:1] + 0.1 * torch.randn(ROWS, d)
    z[:, 0] = 0
    counters = check(z, codebook)
    if way == "clusters":
        assert counters["rows_candidates"] > 0.98 * ROWS


def test_a_tie_with_the_farthest_code_of_a_cluster(way: str) -> None:
    """On a line equal codes at 0, and a cluster that begins at -2: for rows at -1 nothing but
    rounding is between what excludes that cluster and what does not."""
    for _ in range(80):
        scale = 1 + torch.rand(())
        line = scale * torch.linspace(-2.02, -2.11, K)[torch.randperm(K)]
        line[1:70] = 0  # too few to be searched as one, and few enough to be listed
        line[0] = -2 * scale
        counters = check(-scale.expand(20, 12), line[:, None].expand(-1, 12).contiguous())
        if way == "clusters":
            assert counters["calls_clusters"] == 1


@pytest.mark.parametrize("d", [16, 80])
def test_a_cluster_that_is_hardly_nearer_than_the_limit(d: int, way: str) -> None:
    """Codes in one place tell rows how near their nearest code is. A cluster on the other side has
    one that is nearer by a millionth, far less than the rounding of its products."""
    place = torch.randn(d)
    place[0] = 5
    codebook = place * (1 + 1e-7 * torch.randn(K, d))
    other = slice(K // 2, None)
    codebook[other] = place + 0.2 * torch.randn(K - K // 2, d)
    codebook[other, 0] = -5 - 0.2 * torch.rand(K - K // 2)
    codebook[700] = place
    codebook[700, 0] = -5 * (1 - 1e-6)
    z = place + 0.1 * torch.randn(ROWS, d)
    z[:, 0] = 0
    counters = check(z, codebook)
    assert (oracle(z, codebook)[0] == 700).float().mean() > 0.5
    if way == "clusters":
        assert counters["rows_direct"] + counters["rows_scan"] < 0.5 * ROWS


@pytest.mark.usefixtures("restore_threads")
def test_threads_and_kept_codebooks(way: str) -> None:
    codebook = unused(40)
    z = near(codebook, 1e-4)
    for threads in (1, 3, 1):
        torch.set_num_threads(threads)
        check(z, codebook)
        check(z[:100], codebook)
    counters = check(z, codebook)
    if way == "clusters":
        assert counters["calls_cached"] == 1


def test_some_rows_of_many(way: str) -> None:
    """Blocks of rows whose nearest codes crowd among others, one after the other and mixed."""
    codebook = unused(24)
    z = torch.cat([near(codebook, 0.3) for _ in range(4)])
    dead = codebook.norm(dim=1) < 0.1
    z[300:700] = codebook[dead][:400] * 1.01
    check(z, codebook)
    check(z[torch.randperm(len(z))], codebook)


def test_small_and_large_clusters(way: str) -> None:
    """For which there are different screens: what one of them lists is not another one's."""
    for d in (9, 12, 16):
        sizes = torch.tensor([8, 20, 40, 80, 160, 320, 572])
        centres = torch.randn(len(sizes), d) * torch.logspace(0, 2, len(sizes))[:, None]
        width = torch.logspace(-6, -1, len(sizes)).repeat_interleave(sizes)
        codebook = centres.repeat_interleave(sizes, 0) + width[:, None] * torch.randn(K, d)
        codebook = codebook[torch.randperm(K)]
        check(near(codebook, 1e-5), codebook)
        check(near(codebook, 1e-2), codebook)
