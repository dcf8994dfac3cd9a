"""Fixed crops to measure on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sample_pictures import pixels, write_pictures, write_truncated_jpeg

from vqgan_fast.data import DataError, held_out_crops, list_images


def test_crops_tile_the_region(tmp_path):
    files = write_pictures(tmp_path, 2, width=64, height=40)
    images, skipped = held_out_crops(files, size=16, region=(0.5, 0, 1, 1))
    assert images.shape == (8, 3, 16, 16)
    assert skipped == ()
    second = pixels(1, 64, 40)[4:36, 32:64].transpose(2, 0, 1)
    assert np.array_equal(images[4].numpy(), second[:, :16, :16])
    assert np.array_equal(images[7].numpy(), second[:, 16:, 16:])


def test_a_limit_spreads_over_the_pictures(tmp_path):
    files = write_pictures(tmp_path, 5, width=64, height=16)
    whole = held_out_crops(files, size=16).images
    few = held_out_crops(files, size=16, limit=5).images
    assert len(whole) == 20 and len(few) == 5
    origins = [int((whole == crop).flatten(1).all(1).nonzero()[0]) // 4 for crop in few]
    assert origins == [0, 1, 2, 3, 4]


def test_unreadable_pictures_are_left_out_and_named(tmp_path):
    write_pictures(tmp_path, 1, width=16, height=16)
    cut = write_truncated_jpeg(tmp_path / "cut.jpg")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.warns(UserWarning, match=r"2 held-out pictures left out:\n.*\n.*cut\.jpg cannot"):
        images, skipped = held_out_crops(list_images(tmp_path), size=16)
    assert len(images) == 1
    assert set(skipped) == {str(cut), str(tmp_path / "text.png")}
    with pytest.raises(DataError, match="none of the 1 held-out pictures"):
        held_out_crops([cut], size=16)


def test_a_picture_too_thin_to_be_resized_is_left_out(tmp_path):
    files = [*write_pictures(tmp_path, 1), tmp_path / "thin.png"]
    Image.new("RGB", (12000, 1)).save(files[1])
    with pytest.warns(UserWarning, match=r"1 held-out pictures left out:\n.*thin\.png is too thin"):
        images, skipped = held_out_crops(files, size=32, resize=256, limit=4)
    assert len(images) == 4 and skipped == (str(files[1]),)


def test_a_region_without_room_names_the_file(tmp_path):
    (file,) = write_pictures(tmp_path, 1)
    with pytest.raises(DataError, match="holds no crop of 32 x 32") as error:
        held_out_crops([file], size=32, region=(0, 0, 0.5, 1))
    assert str(file) in str(error.value)
