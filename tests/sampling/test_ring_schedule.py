"""The native model's schedule: what a cell attends lies in the ring when it is forwarded."""

from __future__ import annotations

import numpy as np
import pytest

from vqgan_fast.sampling.ring_schedule import ring_rows, ring_steps

REACH = 3


def attended(row, column, height, width, reach):
    above = [
        (i, j) for i in range(max(row - reach, 0), row)
        for j in range(max(column - reach, 0), min(column + reach, width))
    ]  # fmt: skip
    return above + [(row, j) for j in range(max(column - reach, 0), column + 1)]


def check(known, reach, order):
    """Replays a schedule in a ring; returns its steps."""
    height, width = known.shape
    ring, drawn, steps = {}, known.copy(), list(ring_steps(known, reach, order))
    forwarded = set()
    for step in steps:
        assert step
        for row, column, draw in step:
            assert draw == (not known[row, column])
            assert column == 0 or drawn[row, column - 1], "the input is not drawn"
            assert (row, column) not in forwarded
            forwarded.add((row, column))
            ring[row % ring_rows(reach), column] = row  # all of a step write before any attends
        for row, column, _ in step:
            for i, j in attended(row, column, height, width, reach):
                assert ring[i % ring_rows(reach), j] == i
        for row, column, _ in step:
            drawn[row, column] = True
    assert drawn.all()
    return steps


@pytest.mark.parametrize("order", ["raster", "wavefront"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (12, 5), (14, 17)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.97, 1.0])
def test_what_is_attended_is_in_the_ring(order, height, width, share):
    known = np.random.default_rng(1).random((height, width)) < share
    check(known, REACH, order)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (25, 40)])
def test_the_wavefront_of_the_whole_grid_has_skew_8_and_a_ring_of_10_rows(height, width):
    assert ring_rows(8) == 10
    steps = check(np.zeros((height, width), dtype=bool), 8, "wavefront")
    # Behind the right border a row need not wait for cells that are not there.
    assert len(steps) <= 8 * (height - 1) + width
    for number, step in enumerate(steps[: width - 8]):
        assert all(8 * row + column == number for row, column, _ in step)


def test_raster_draws_one_cell_a_step():
    known = np.random.default_rng(2).random((9, 8)) < 0.4
    steps = check(known, REACH, "raster")
    draws = [[(row, column) for row, column, draw in step if draw] for step in steps]
    assert [d[0] for d in draws if d] == [tuple(cell) for cell in np.argwhere(~known).tolist()]
    assert all(len(d) <= 1 for d in draws)


def test_nothing_behind_the_last_unknown_cell_is_forwarded():
    known = np.ones((9, 8), dtype=bool)
    known[3, 2] = False
    cells = [cell[:2] for step in check(known, REACH, "wavefront") for cell in step]
    assert max(cells) == (3, 2)
    assert len(cells) == 3 * 8 + 3
