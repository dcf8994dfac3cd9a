"""Inputs that use up nearly all of a screen's margin, and ties where its bookkeeping could slip.

The bounds are those of docs/numerics.md; x, y, dx, dy, R and E are named as there.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import pytest
import torch
from search_cases import assert_is_oracle, oracle
from torch import Tensor

from vqgan_fast import ops


def check(z: Tensor, codebook: Tensor) -> None:
    assert_is_oracle(z, codebook, ops.nearest_code(z, codebook))


def assert_no_row_proven_by(screen: str, way: str) -> None:
    """Where this screen was forced, it ran, and left two codes or more of each row."""
    counters = ops.nearest_code_counters()
    if way == screen:
        assert counters[f"calls_{screen}"] > 0
        assert counters["rows_screen"] == 0


def quantised_worst(d: int, m: int, code_norm: float, slack: int) -> tuple[Tensor, Tensor]:
    """dx parallel to qy and dy parallel to X: both terms of R at once, for codes w and -w.

    s1 and s2 are orthogonal signs. w = m s1 + lo s2 rounds to m s1; a row X near m s2, orthogonal
    to w, ties w with -w. Taking whole units from it where s1 = s2 leaves X = qx + t s1 with t close
    to lo: qx . qy, 0 without rounding, is -2 lo m D.
    """
    lo = 0.4999
    s1 = torch.ones(d, dtype=torch.float64)
    s2 = s1.clone()
    s2[1::2] = -1
    w = m * s1 + lo * s2
    qx, steps = m * s2, math.floor(2 * lo * d / (1 + lo / m))
    for i in range(steps):
        qx[2 * i % d] -= 1  # where s1 = s2 = 1
    t = -float(qx @ w) / float(s1 @ w)
    x = qx + t * s1
    assert torch.equal(x.round(), qx)
    dx, dy, length_x = abs(t) * math.sqrt(d), lo * math.sqrt(d), float(x.norm())
    margin = 2 * (dx * (code_norm + dy) + length_x * dy + 2 + slack)
    assert 0.99 * margin < 2 * abs(float(qx @ (m * s1))) < margin
    pushes = torch.tensor([sign * 2.0**-e for e in range(24, 48, 3) for sign in (1, -1)])
    z = (x - (x @ w) / (w @ w) * w + pushes[:, None].double() * w / m) / 2
    return z, torch.stack([w, -w])


@functools.cache
def int16_worst(d: int) -> tuple[Tensor, Tensor]:
    """Two more codes of norm A make the scale 1."""
    norm = 30699 - math.sqrt(d) / 2
    z, codes = quantised_worst(d, math.floor(norm / math.sqrt(d)) - 3, norm, 511)
    noise = torch.randn(d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    others = torch.stack([z[0], codes[0], noise], 1)
    far = norm * torch.linalg.qr(others)[0][:, 2]
    return z, torch.cat([codes, far[None], -far[None]])


@functools.cache
def int8_worst(d: int) -> tuple[Tensor, Tensor]:
    """Two more codes, of elements of 127, make the scale 1."""
    far = 127 * torch.tensor([1, 1, -1, -1], dtype=torch.float64).repeat(d // 4)[None]
    z, codes = quantised_worst(d, 126, float(far.norm()), 0)
    return z, torch.cat([codes, far, -far])


@pytest.mark.parametrize("d", (16, 64, 256))
def test_int16_worst_case(d: int, way: str) -> None:
    """Presses against 2 R of the int16 screen: more than 99% of it lies between equals."""
    z, codebook = int16_worst(d)
    assert set(oracle(z, codebook)[0].tolist()) == {0, 1}
    for scale, order in itertools.product((2.0**-30, 1.0, 2.0**17), ((0, 1, 2, 3), (3, 1, 2, 0))):
        check(scale * z, scale * codebook[list(order)])
    assert_no_row_proven_by("int16", way)


@pytest.mark.parametrize("d", (64, 256))
def test_int8_worst_case(d: int, way: str) -> None:
    """Presses against 2 R of the int8 screen: more than 99% of it lies between equals."""
    z, codebook = int8_worst(d)
    assert set(oracle(z, codebook)[0].tolist()) == {0, 1}
    for scale, order in itertools.product((2.0**-30, 1.0, 2.0**17), ((0, 1, 2, 3), (3, 1, 2, 0))):
        check(scale * z, scale * codebook[list(order)])
    assert_no_row_proven_by("int8", way)


@functools.cache
def bytes_worst() -> tuple[Tensor, Tensor]:
    """lx parallel to the low bytes of one code and against those of another, which ties with it.

    X = 256 hx + 127 s, and the codes are 256 h + 127 s and 256 h - 127 s, s signs: all integers, so
    that nothing is rounded. With h . s = 0 the codes have one norm, and with X . s = 0 they tie;
    what is left out of their scores differs by 2 |lx| |ly| / 256. An element of 32638 makes the
    scale 1, and the negative of each code makes the centre 0.
    """
    d = 256
    s = torch.ones(d, dtype=torch.float64)
    s[1::2] = -1
    h = torch.full((d,), 100.0, dtype=torch.float64)
    hx = h.clone()
    hx[: 127 * 2 : 2] -= 1  # where s = 1
    x = 256 * hx + 127 * s
    codes = torch.stack([256 * h + 127 * s, 256 * h - 127 * s])
    assert h @ s == 0 and x @ s == 0 and 2 * x.max() > 32638
    low = 127 * math.sqrt(d)
    assert low * low / 256 > 0.96 * (low * low / 256 + 2 + 511)
    far = torch.zeros(1, d, dtype=torch.float64)
    far[0, 0] = 32638
    pushes = torch.tensor([sign * 2.0**-e for e in range(24, 36, 2) for sign in (1, -1)])
    return x + pushes[:, None].double() * s, torch.cat([codes, far, -codes, -far])


def test_int16_bytes_worst_case(way: str) -> None:
    """Presses against 2 R where products of low bytes are left out: 96% of it between equals."""
    z, codebook = bytes_worst()
    assert set(oracle(z, codebook)[0].tolist()) == {0, 1}
    for scale, order in itertools.product(
        (2.0**-30, 1.0, 2.0**17), ([*range(6)], [2, 1, 0, 5, 4, 3])
    ):
        check(scale * z, scale * codebook[order])
    assert_no_row_proven_by("int16", way)


@functools.cache
def fp32_worst() -> tuple[Tensor, Tensor]:
    """Every rounding goes up in the score of one code, and down in that of the other.

    Scores fall from H = 2^19 + ... to 2^19 in steps of 60: half a unit in their last place is 1/32.
    The products 60 + e and 60 - e, e just below 1/32, are both taken for 60. One more product, of
    2 n e, pays the second code's debt: the scores tie, and what is computed differs by 2 n e. The
    last elements, where rows are all but 0, make both norms sqrt(2 H).
    """
    n, e = 280, 2.0**-5 - 2.0**-18
    half_norm = 2.0**19 + 60 * (n + 1)
    codes = []
    for product, debt in ((60 + e, 0.0), (60 - e, 2 * n * e)):
        code = [product] * n + [debt]
        for _ in range(4):
            rest = max(0.0, 2 * half_norm - math.fsum(y * y for y in code))
            # A little short, so that the next element has something to add.
            code.append(float(torch.tensor(math.sqrt(rest) * (1 - 2.0**-23)).float()))
        codes.append(code)
    y = torch.tensor(codes)
    d = y.shape[1]
    bound = (d + 8) * 2.0**-24 * (half_norm + math.sqrt((n + 1) * 2 * half_norm))
    assert 0.89 * 2 * bound < 2 * n * e < 2 * bound
    z = torch.ones(15, d)
    z[:, n + 1 :] = 0
    z[1:, n + 1] = torch.tensor([s * 10.0**-k for k in range(4, 11) for s in (1, -1)])
    return z, torch.cat([y, -y])


def test_fp32_worst_case(way: str) -> None:
    """Presses against 2 R of the fp32 screen: nine tenths of it lie between equals."""
    z, codebook = fp32_worst()
    assert set(oracle(z, codebook)[0].tolist()) == {0, 1}
    for scale, order in itertools.product((2.0**-40, 1.0, 2.0**20), ((0, 2, 1, 3), (1, 0, 3, 2))):
        check(scale * z, scale * codebook[list(order)])
    assert_no_row_proven_by("fp32", way)


@functools.cache
def direct_worst(d: int) -> Tensor:
    """Two codes; every sum of the squared norm goes up for the first, and down for the second.

    Sums begin with 2^18, half a unit in whose last place is 2^-6. Squares a little larger count for
    a whole unit, a little smaller ones for nothing. One more square, the last, is too small to
    count as well, and makes the second code the longer one by a few units of fp64.
    """
    n, e = d - 2, 2.0**-9 / d
    up, down = (2.0**-3 * math.sqrt(1 + sign * e) for sign in (1, -1))
    y = torch.tensor([[2.0**9, *[up] * n, 0.0], [2.0**9, *[down] * n, 0.0]])
    debt = y[0].double().square().sum() - y[1].double().square().sum()
    y[1, -1] = debt.sqrt() * (1 + 2.0**-20)
    computed = y[:, 0].square()
    for element in y.T[1:]:
        computed = (computed.double() + element.double().square()).float()
    units = float(computed[0] / computed[1].double() - 1) * 2.0**24
    assert (0.5 if d == 16 else 0.85) * 2 * (d + 8) < units < 2 * (d + 8)
    return y


@pytest.mark.parametrize("d", (16, 64, 256))
def test_direct_worst_case(d: int, way: str) -> None:
    """Presses against the limit of sums of squares: of boxes (58% of it), directly (up to 96%)."""
    y = direct_worst(d)
    z = torch.zeros(30, d)
    assert oracle(z[:1], y.flip(0))[0].item() == 1
    for scale, order in itertools.product((2.0**-30, 1.0, 2.0**20), ((0, 1, 2), (1, 2, 0))):
        check(z, scale * torch.cat([y, 2 * y[:1]])[list(order)])


def tied_pairs(offsets: list[int], k: int, d: int) -> tuple[Tensor, Tensor]:
    """Of each offset pairs of codes that lie so far apart: equal, or either nearer by a bit."""
    codebook = torch.randn(k, d)
    taken: set[int] = set()
    firsts = []
    for offset, kind in itertools.product(offsets, range(3)):
        first = next(i for i in range(k) if taken.isdisjoint((i, i + offset)))
        taken.update((first, first + offset))
        firsts.append(first)
        codebook[first + offset] = codebook[first]
        if kind > 0:
            codebook[first + (kind - 1) * offset] *= 1 + 2.0**-22
    assert max(taken) < k
    return codebook[firsts] * (1 + 2.0**-8), codebook


@pytest.mark.parametrize("d", (2, 9, 20, 48))
def test_ties_a_lane_period_apart(d: int, way: str) -> None:
    """Codes that share a lane: one is its best, the other the loser that must not be lost."""
    check(*tied_pairs([4, 8, 16, 32, 64, 128], 600, d))


@pytest.mark.parametrize("d", (9, 48))
def test_ties_as_far_apart_as_tags_last(d: int, way: str) -> None:
    """The int16 screen's tags count 512 vectors of codes: 511 to 513 of 4, 8 and 16 lanes apart."""
    offsets = [lanes * vectors for lanes in (4, 8, 16) for vectors in (511, 512, 513)]
    check(*tied_pairs(offsets, 515 * 16 + 3, d))


@pytest.mark.parametrize(("lanes", "d"), ((4, 12), (8, 12), (16, 12), (16, 72)))
def test_more_ties_than_candidates_one_in_a_lane(lanes: int, d: int, way: str) -> None:
    """Each is the only one in its lane for as long as tags last; the nearest comes last."""
    segment, count = 512 * lanes, 20
    codebook = torch.randn(-(-count // lanes) * segment, d)
    at = [i // lanes * segment + 64 * lanes * (i % 7) + i % lanes for i in range(count)]
    centre, direction = torch.randn(d), torch.nn.functional.normalize(torch.randn(count, d), dim=1)
    distance = 0.1 * (1 + 1e-5 * torch.arange(count, 0, -1))
    codebook[at] = centre + distance[:, None] * direction
    z = centre.expand(25, d)
    assert oracle(z[:1], codebook)[0].item() == at[-1]
    check(z, codebook)


@functools.cache
def sieve_worst(d: int) -> tuple[Tensor, Tensor]:
    """Codes that tie, of which rounding moves the first away from its row by nearly one step in
    each dimension. Corners of the box around all codes make one the step of int16 images."""
    rows, others, nearly_half = 400, 6000, 0.5 - 2.0**-10
    generator = torch.Generator().manual_seed(d)
    signs = torch.randint(2, (4, rows, d), generator=generator) * 2.0 - 1.0
    z = torch.randint(-2800, 2801, (rows, d), generator=generator) + nearly_half * signs[0]
    tied = z + signs * (torch.randint(300, 1200, (rows, 1), generator=generator) + 2.0**-9)
    moved = (tied[0].round() - z.round()).norm(dim=1) - (tied[0] - z).norm(dim=1)
    assert moved.min() > 0.99 * math.sqrt(d)
    corners = torch.tensor([[4094.0], [-4094.0]]).expand(2, d)
    between = torch.randint(-4094, 4095, (others, d), generator=generator)
    return z, torch.cat([tied.flatten(0, 1), corners, between])


@pytest.mark.parametrize("scale", (1.0, 2.0**-90, 2.0**50))
@pytest.mark.parametrize("d", (7, 8))
def test_sieve_worst_case(d: int, scale: float, way: str) -> None:
    """The first of the tied codes must win, though the others lie in leaves visited before."""
    z, codebook = sieve_worst(d)
    check(scale * z, scale * codebook)


def test_rows_beside_the_codes(way: str) -> None:
    """Up to eight times as far from their middle as the codes: too far for an int16 image."""
    torch.manual_seed(0)
    codebook = torch.rand(8192, 8) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(400, 8), dim=1)
    for middle in (0.0, 100.0):
        check(directions * torch.linspace(1, 8, 400)[:, None] + middle, codebook + middle)


@pytest.mark.parametrize("count", (16, 17, 18, 65, 300))
def test_more_ties_than_candidates(count: int, way: str) -> None:
    """A screen hands on 16 candidates, a box row 64: with one more the row must stay open."""
    for d, spread in itertools.product((2, 8, 24, 48), (0.0, 2.0**-23)):
        codebook = torch.randn(400, d)
        tied = torch.randperm(400)[:count]
        codebook[tied] = 0.1 * torch.randn(d) * (1 + spread * torch.randint(-2, 3, (count, d)))
        check(codebook[tied[:20]] * (1 + 0.01 * torch.randn(min(count, 20), 1)), codebook)


@functools.cache
def far_rows(log_distance: int, d: int) -> tuple[Tensor, Tensor]:
    """Rows so far along (1, ..., 1) that codes differ there by what the definition rounds away."""
    generator = torch.Generator().manual_seed(log_distance)
    half = torch.randint(-1024, 1025, (60, d // 2), generator=generator).double() / 1024
    along = torch.randint(-8, 9, (60, 1), generator=generator) * 2.0 ** (log_distance - 54)
    codebook = torch.cat([half, -half], 1) + along
    z = 2.0**log_distance * (1 + torch.arange(16)[:, None].double() / 16) * torch.ones(d)
    z[8:] += torch.randn(8, d, generator=generator)
    codes = [[Fraction(y) for y in code] for code in codebook.tolist()]
    nearest = []
    for row in z.tolist():
        exact = [
            sum(y * (y / 2 - Fraction(x)) for x, y in zip(row, code, strict=True)) for code in codes
        ]
        nearest.append(exact.index(min(exact)))
    assert nearest != oracle(z, codebook)[0].tolist()
    return z, codebook


@pytest.mark.parametrize("log_distance", (28, 32, 36, 40, 48))
def test_far_rows(log_distance: int, way: str) -> None:
    """Presses against E: the definition's roundings choose, and not the nearest code."""
    for d in (8, 24, 48):
        z, codebook = far_rows(log_distance, d)
        check(z, codebook)
        check(z.float(), codebook.float())
        check(z, codebook.float())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_bisectors_and_their_neighbours(dtype: torch.dtype, way: str) -> None:
    """Midway between neighbours, every element rounded, or one unit in the last place beside."""
    for d, offset in itertools.product((1, 2, 3, 8, 9, 16, 33), (0, 1000)):
        codebook = torch.randn(90, d, dtype=dtype) + offset
        other = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf).argmin(1)
        middle = (codebook.double() + codebook[other].double()).div(2).to(dtype)
        towards = torch.tensor([-torch.inf, 0, torch.inf], dtype=dtype)[torch.randint(3, (90, d))]
        check(torch.where(towards == 0, middle, middle.nextafter(towards)), codebook)
