"""The order of samples as a pure function of (seed, epoch, position)."""

from __future__ import annotations

import pytest

from vqgan_fast.data import SampleOrder, rank_positions
from vqgan_fast.data.order import counter_generator


def test_every_epoch_is_another_permutation():
    order = SampleOrder(50, seed=3)
    epochs = [[order.locate(epoch * 50 + i) for i in range(50)] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert {entry[0] for entry in epoch} == {number}
        assert sorted(entry[1] for entry in epoch) == list(range(50))
    orders = [[entry[1] for entry in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2] != list(range(50))


def test_positions_can_be_asked_in_any_order_and_depend_on_the_seed():
    first = [SampleOrder(20, seed=1).locate(i) for i in range(200)]
    again = SampleOrder(20, seed=1)
    assert [again.locate(i) for i in reversed(range(200))] == first[::-1]
    assert [SampleOrder(20, seed=2).locate(i) for i in range(200)] != first


def test_without_shuffling_the_order_stays():
    order = SampleOrder(4, seed=1, shuffle=False)
    assert [order.locate(i) for i in (0, 3, 4, 9)] == [(0, 0), (0, 3), (1, 0), (2, 1)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_batch_of_one_process(world_size):
    whole = list(rank_positions(60, 12))
    parts = [rank_positions(60, 12 // world_size, rank, world_size) for rank in range(world_size)]
    assert [position for part in parts for position in part] == whole == list(range(60, 72))


def test_purposes_and_positions_have_streams_of_their_own():
    draws = {
        counter_generator(*key).integers(2**62)
        for key in [
            (0, 0, 0, 0),
            (1, 0, 0, 0),
            (0, 1, 0, 0),
            (0, 0, 1, 0),
            (0, 0, 0, 1),
            (-1, 0, 0, 0),
        ]
    }
    assert len(draws) == 6
    assert counter_generator(5, 1, 2, 3).random() == counter_generator(5, 1, 2, 3).random()


def test_nothing_to_order_is_an_error():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        SampleOrder(0)
    with pytest.raises(ValueError, match="rank must be below world_size = 2"):
        rank_positions(0, 4, 2, 2)
