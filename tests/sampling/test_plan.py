"""Schedules, orders and slots without a model, against brute force and published counts."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from vqgan_fast.sampling.plan import passes, requests, windows_in_use
from vqgan_fast.sampling.schedules import (
    block_cells,
    block_starts,
    exact_cells,
    raster_steps,
    wavefront_steps,
)
from vqgan_fast.sampling.windows import CodeGrid


def shown(cell, window):
    """The cells that a window shows before a cell."""
    return {
        (cell.top + rank // window, cell.left + rank % window)
        for rank in range(cell.rank)
    }  # fmt: skip


def cells_of(grid, schedule):
    return exact_cells(grid) if schedule == "exact" else block_cells(grid, schedule)


def mask(height, width, share, seed=0):
    return np.random.default_rng(seed).random((height, width)) < share


def tokens(all_passes):
    return sum(visit.stop - visit.start for one in all_passes for visit in one)


@pytest.mark.parametrize("schedule", ["exact", 1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 9), (9, 5), (8, 11)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_every_unknown_cell_once_after_all_that_its_window_shows(schedule, height, width, share):
    grid = CodeGrid(height, width, 4)
    cells, known = cells_of(grid, schedule), mask(height, width, share)
    for steps in (raster_steps(cells, known), wavefront_steps(cells, known, 4)):
        done = {tuple(cell) for cell in np.argwhere(known).tolist()}
        for step in steps:
            assert step
            for cell in step:
                assert cell.top <= cell.row < cell.top + 4
                assert cell.left <= cell.column < cell.left + 4
                assert shown(cell, 4) <= done
            drawn = {(cell.row, cell.column) for cell in step}
            assert len(drawn) == len(step)
            assert not drawn & done
            done |= drawn
        assert len(done) == height * width


@pytest.mark.parametrize("schedule", ["exact", 2])
def test_a_wavefront_has_no_step_too_many(schedule):
    """Its length is the longest path of the dependencies, found here by recursion on sets."""
    grid, known = CodeGrid(7, 10, 4), mask(7, 10, 0.5, seed=3)
    cells = cells_of(grid, schedule)
    depth = {}
    for cell in cells:
        if not known[cell.row, cell.column]:
            before = [depth[c] for c in shown(cell, 4) if not known[c]]
            depth[cell.row, cell.column] = 1 + max(before, default=0)
    assert len(list(wavefront_steps(cells, known, 4))) == max(depth.values())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (24, 40), (32, 32), (64, 64)])
def test_steps_of_the_wavefront(height, width):
    grid = CodeGrid(height, width, 16)
    nothing = np.zeros((height, width), dtype=bool)
    steps = list(wavefront_steps(exact_cells(grid), nothing, 16))
    assert len(steps) == 16 * (height - 1) + width
    for number, step in enumerate(steps):
        assert all(16 * cell.row + cell.column == number for cell in step)


def test_a_hole_in_a_known_picture_takes_its_own_steps_only():
    known = np.ones((64, 64), dtype=bool)
    known[30:35, 20:28] = False
    steps = list(wavefront_steps(exact_cells(CodeGrid(64, 64, 16)), known, 16))
    assert sum(map(len, steps)) == 40
    # Each row of the hole lies in all windows of the next: no two cells are independent.
    assert len(steps) == 40
    known[30:34, 50:54] = False  # out of the sight of the first hole
    assert len(list(wavefront_steps(exact_cells(CodeGrid(64, 64, 16)), known, 16))) == 40


@pytest.mark.parametrize(
    ("size", "stride"), [(16, 8), (17, 8), (32, 8), (33, 5), (64, 15), (20, 1)]
)
def test_starts_of_blocks(size, stride):
    starts = block_starts(size, 16, stride)
    assert starts == sorted({min(start, size - 16) for start in range(0, size, stride)})


def test_a_block_draws_what_no_block_before_it_has_drawn():
    cells = block_cells(CodeGrid(24, 24, 16), 8)
    number = {}
    for cell in cells:
        number[cell.top, cell.left] = number.get((cell.top, cell.left), 0) + 1
    assert number == {(0, 0): 256, (0, 8): 128, (8, 0): 128, (8, 8): 64}


# sampling.md, the last column: a cache for each column start, 256 condition tokens; and with one.
COUNTS = {
    (16, 16): (511 / 256, 1.0), (16, 64): (24, 11.9), (32, 32): (113, 40.6), (64, 64): (231, 81.7),
}  # fmt: skip


@pytest.mark.parametrize(("grid", "per_draw"), COUNTS.items())
@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_tokens_forwarded_for_each_draw_of_the_exact_schedule(grid, per_draw, order):
    cells, nothing = exact_cells(CodeGrid(*grid, 16)), np.zeros(grid, dtype=bool)
    steps = (
        raster_steps(cells, nothing) if order == "raster" else wavefront_steps(cells, nothing, 16)
    )
    steps = requests([list(steps)])
    for prefix, expected in zip((256, 1), per_draw, strict=True):
        number = tokens(passes(steps, prefix, windows_in_use(steps))) / math.prod(grid)
        assert number == pytest.approx(expected, abs=0.5 if prefix == 256 else 0.06)


@pytest.mark.parametrize(("prefix", "most"), [(1, 4.0), (256, 8.0)])
def test_tokens_forwarded_for_each_draw_of_blocks_of_8(prefix, most):
    cells = block_cells(CodeGrid(64, 64, 16), 8)
    steps = requests([list(wavefront_steps(cells, np.zeros((64, 64), dtype=bool), 16))])
    assert tokens(passes(steps, prefix, windows_in_use(steps))) / 64**2 < most


def replayed(all_passes, prefix, window):
    """Checks each visit against what its slot really holds; returns the draws in order."""
    holds, drawn = {}, []
    for visits in all_passes:
        assert len({visit.slot for visit in visits}) == len(visits)
        for visit in visits:
            key = (visit.image, visit.cell.top, visit.cell.left)
            held, length = holds.get(visit.slot, (None, 0))
            assert visit.start in ((length,) if held == key else (0,))
            assert visit.start < visit.stop == prefix + visit.cell.rank
            # With a part of the condition only, tokens that see each other would be split.
            assert visit.start == 0 or visit.start >= prefix
            holds[visit.slot] = (key, visit.stop)
            drawn.append((visit.image, visit.cell.row, visit.cell.column))
    return drawn


@pytest.mark.parametrize("num_slots", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("max_tokens", [1, 30, math.inf])
@pytest.mark.parametrize("schedule", ["exact", 2])
def test_slots_hold_what_visits_rely_on(num_slots, max_tokens, schedule):
    cells = cells_of(CodeGrid(8, 9, 4), schedule)
    images = [
        list(wavefront_steps(cells, mask(8, 9, share, seed), 4))
        for seed, share in enumerate((0.0, 0.5, 0.0, 0.9))
    ]
    steps = requests(images)
    planned = list(passes(steps, 3, num_slots, max_tokens))
    drawn = replayed(planned, 3, 4)
    assert drawn == [(r.image, r.cell.row, r.cell.column) for step in steps for r in step]
    for visits in planned:
        assert len(visits) <= num_slots
        assert len(visits) == 1 or tokens([visits]) <= max_tokens


def test_more_slots_never_forward_more_tokens_and_enough_forward_none_twice():
    source = random.Random(0)
    for _ in range(20):
        height, width = source.randint(4, 9), source.randint(4, 12)
        cells = exact_cells(CodeGrid(height, width, 4))
        steps = requests([list(raster_steps(cells, mask(height, width, source.random())))] * 2)
        if not steps:
            continue
        enough = windows_in_use(steps)
        counts = [tokens(passes(steps, 3, number)) for number in range(2, enough + 3)]
        assert counts == sorted(counts, reverse=True)
        furthest = {}
        for step in steps:
            for r in step:
                furthest[r.key] = 3 + r.cell.rank  # ranks ascend within a window
        assert counts[enough - 2] == counts[-1] == sum(furthest.values())
        if enough > 2:
            assert counts[enough - 3] > counts[-1]
