"""Resizing, regions and crops, in pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vqgan_fast.data.crops import (
    Box,
    always_fits,
    center_crop,
    fits,
    random_crop,
    region_box,
    resize_shorter_side,
    resized_size,
    tile_crops,
)
from vqgan_fast.data.images import UnreadableImageError


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [
        ((640, 480), 256, (341, 256)),
        ((480, 640), 256, (256, 341)),
        ((10, 10), 32, (32, 32)),
        ((100, 99), 99, (100, 99)),
        ((640, 480), None, (640, 480)),
    ],
)
def test_resized_size(size, shorter, expected):
    assert resized_size(*size, shorter) == expected


def test_a_thin_picture_does_not_grow_beyond_a_picture_s_size(monkeypatch):
    grown = r"thin\.png is too thin: .* its 12000 x 1 would be 3072000 x 256 = 786432000 pixels"
    with pytest.raises(UnreadableImageError, match=grown):
        resize_shorter_side(Image.new("RGB", (12000, 1)), 256, "thin.png")
    with pytest.raises(UnreadableImageError, match="the picture is too thin"):
        resized_size(1, 12000, 256)
    assert resized_size(12000, 1, None) == (12000, 1)
    assert resized_size(30000, 8000, 6000) == (22500, 6000)  # it shrinks, however large it is
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert resized_size(12000, 1, 256) == (3072000, 256)


def test_shrinking_averages_instead_of_picking():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = np.asarray(resize_shorter_side(Image.fromarray(stripes), 8))
    assert shrunk.shape == (8, 8, 3)
    assert np.abs(shrunk.astype(int) - 127).max() < 8


@given(st.integers(8, 700), st.floats(0.05, 0.95))
def test_regions_that_share_an_edge_share_no_pixel(width, edge):
    left, right = region_box(width, 10, (0, 0, edge, 1)), region_box(width, 10, (edge, 0, 1, 1))
    assert left.right <= right.left <= left.right + 1
    assert (left.left, right.right) == (0, width)


@given(st.floats(0, 0.6), st.floats(0.65, 1), st.integers(32, 90))
def test_what_always_fits_does_so_in_every_longer_picture(left, right, shorter):
    region = (left, 0.1, right, 0.9)
    every = all(fits(region_box(side, shorter, region), 20) for side in range(shorter, 2000))
    tall = all(fits(region_box(shorter, side, region), 20) for side in range(shorter, 2000))
    assert always_fits(shorter, region, 20) == (every and tall)


def test_a_round_fraction_loses_no_pixel():
    assert region_box(10, 100, (0.7, 0.29, 1, 1)) == Box(7, 29, 10, 100)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**32))
def test_crops_stay_in_their_box(spare_x, spare_y, seed):
    box = Box(5, 7, 5 + 16 + spare_x, 7 + 16 + spare_y)
    generator = np.random.default_rng(seed)
    for crop in (random_crop(box, 16, generator), center_crop(box, 16), *tile_crops(box, 16)):
        assert (crop.right - crop.left, crop.bottom - crop.top) == (16, 16)
        assert box.left <= crop.left and crop.right <= box.right
        assert box.top <= crop.top and crop.bottom <= box.bottom


def test_random_crops_reach_every_place():
    box, generator = Box(0, 0, 18, 17), np.random.default_rng(0)
    seen = {random_crop(box, 16, generator)[:2] for _ in range(200)}
    assert seen == {(x, y) for x in range(3) for y in range(2)}


def test_tiles_do_not_overlap_and_are_centred():
    assert tile_crops(Box(0, 0, 21, 35), 10) == [
        Box(0, 2, 10, 12), Box(10, 2, 20, 12), Box(0, 12, 10, 22), Box(10, 12, 20, 22),
        Box(0, 22, 10, 32), Box(10, 22, 20, 32),
    ]  # fmt: skip
    assert tile_crops(Box(0, 0, 9, 35), 10) == []
    assert not fits(Box(0, 0, 9, 35), 10) and fits(Box(0, 0, 10, 10), 10)
