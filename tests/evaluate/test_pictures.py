"""The crops that figures are taken on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import pixels, write_pictures, write_truncated_jpeg

from vqgan_fast.data import DataError
from vqgan_fast.evaluate import Pictures, paper_crop


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (48, 48)])
def test_the_crop_is_the_centred_square(width: int, height: int) -> None:
    picture = Image.fromarray(pixels(3, width, height))
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    assert np.array_equal(np.array(paper_crop(picture, side)), np.array(square))
    smaller = square.resize((12, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(np.array(paper_crop(picture, 12)), np.array(smaller))


def test_it_is_resized_with_antialiasing() -> None:
    """Stripes of one pixel become grey, not stripes again."""
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.array(paper_crop(Image.fromarray(stripes), 8)).astype(int)
    assert abs(small - 127).max() < 16


def test_pictures_come_in_order_and_broken_ones_are_named(tmp_path: Path) -> None:
    files = write_pictures(tmp_path, 5)
    broken = write_truncated_jpeg(tmp_path / "broken.jpg")
    pictures = Pictures([files[0], broken, *files[1:]], size=16, batch_size=2)
    batches = list(pictures)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert pictures.skipped == [str(broken)]
    for image, file in zip(torch.cat(batches), files, strict=True):
        with Image.open(file) as opened:
            expected = np.array(paper_crop(opened, 16)).transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), expected)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        Pictures([], 0)
    broken = write_truncated_jpeg(tmp_path / "broken.jpg")
    with pytest.raises(DataError, match=r"none of the 1 pictures can be read, .*broken\.jpg"):
        list(Pictures([broken], 16))
