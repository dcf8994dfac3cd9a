"""The stream of training crops."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import pixels, write_pictures, write_truncated_jpeg

from vqgan_fast.data import DataError, ImageStream, batches, list_images, to_model_range, to_pixels


def take(stream, count, batch_size=4, **arguments):
    return list(batches(stream, batch_size, count=count, **arguments))


def images_of(stream, count, **arguments):
    return torch.cat([batch.images for batch in take(stream, count, **arguments)])


@pytest.fixture
def files(tmp_path):
    return write_pictures(tmp_path / "pictures", 7)


def test_center_crops_are_the_middle_of_the_pictures(files):
    stream = ImageStream(files, size=32, crop="center", shuffle=False)
    for number in range(7):
        middle = pixels(number, 48, 40)[4:36, 8:40].transpose(2, 0, 1)
        assert np.array_equal(stream[number].image.numpy(), middle)


def test_random_crops_and_flips_vary_and_come_from_the_picture(files):
    stream = ImageStream(files, size=32, flip=True, shuffle=False)
    crops = [stream[7 * epoch].image.numpy().transpose(1, 2, 0) for epoch in range(24)]
    whole = pixels(0, 48, 40)
    places = {
        (crop[:, ::way].tobytes(), way): (x, y)
        for crop in crops
        for way in (1, -1)
        for x in range(17)
        for y in range(9)
        if np.array_equal(crop[:, ::way], whole[y : y + 32, x : x + 32])
    }
    assert len({way for _, way in places}) == 2
    assert len(set(places.values())) > 12
    assert len(places) >= len({crop.tobytes() for crop in crops}) > 12


def test_the_same_position_gives_the_same_crop_whatever_came_before(files):
    settings = {"size": 32, "flip": True, "seed": 5}
    forward, backward = ImageStream(files, **settings), ImageStream(files, **settings)
    there = [forward[position].image for position in range(30)]
    back = [backward[position].image for position in reversed(range(30))]
    assert all(torch.equal(a, b) for a, b in zip(there, reversed(back), strict=True))


def test_the_seed_decides_the_augmentation_too(files):
    one, other = (ImageStream(files, size=32, seed=seed, shuffle=False) for seed in (5, 6))
    assert not all(torch.equal(one[i].image, other[i].image) for i in range(7))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(files, num_workers):
    stream = ImageStream(files, size=32, flip=True)
    assert torch.equal(images_of(stream, 5), images_of(stream, 5, num_workers=num_workers))


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_worker_that_is_killed_is_told_with_advice(files, meanwhile):
    """Torch tells of it as soon as the system does, wherever the main thread is then."""
    others = multiprocessing.active_children()
    source = batches(ImageStream(files, size=32), 4, num_workers=1)
    next(source)
    (worker,) = set(multiprocessing.active_children()).difference(others)
    with pytest.raises(DataError, match=r"is gone \(.*\): .* lower data\.num_workers"):
        os.kill(worker.pid, signal.SIGKILL)
        if meanwhile:
            time.sleep(30)
        else:
            for _ in source:
                pass


@pytest.mark.parametrize("error", [False, True])
def test_a_process_ends_though_its_workers_are_still_referred_to(files, tmp_path, error):
    """By the traceback of an error that nobody caught, for example."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from vqgan_fast.data import ImageStream, batches, list_images\n"
        "def train(source):\n"
        "    next(source)\n"
        f"    assert not {error}, 'the error that nobody caught'\n"
        "train(kept := batches(ImageStream(list_images(sys.argv[1]), size=32), 4, num_workers=2))\n"
    )
    command = [sys.executable, str(program), str(files[0].parent)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == error, ended.stderr
    assert ended.stderr.count("Traceback") == error, ended.stderr


def test_the_loader_leaves_the_random_state_of_training_alone(files):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(ImageStream(files, size=32), 2)
    assert torch.equal(torch.rand(3), expected)


def test_the_cache_changes_nothing(files):
    settings = {"size": 16, "resize": 24, "flip": True}
    plain, cached = ImageStream(files, **settings), ImageStream(files, cache=True, **settings)
    for file in files:
        file.unlink()  # the cached stream must not need them any more
    with pytest.raises(DataError):
        plain[0]
    copy = [cached[position].image for position in range(20)]
    write_pictures(files[0].parent, 7)
    plain = ImageStream(files, **settings)
    assert all(torch.equal(plain[i].image, image) for i, image in enumerate(copy))


def test_two_ranks_see_the_batch_of_one_process_and_a_restart_goes_on(files):
    stream = ImageStream(files, size=32, flip=True)
    whole = take(stream, 4, batch_size=6)
    ranks = [take(stream, 4, batch_size=3, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(4):
        joined = torch.cat([ranks[0][step].images, ranks[1][step].images])
        assert torch.equal(joined, whole[step].images)
    resumed = take(stream, 2, batch_size=6, start=12)  # in the middle of an epoch of 7
    for step in range(2):
        assert torch.equal(resumed[step].images, whole[step + 2].images)
        assert resumed[step].positions == whole[step + 2].positions


def test_crops_stay_in_the_region(tmp_path):
    (file,) = write_pictures(tmp_path, 1, width=60, height=50)
    stream = ImageStream([file], size=16, region=(0.5, 0.2, 1, 0.6))
    inside = pixels(0, 60, 50)[10:30, 30:60]
    for position in range(30):
        crop = stream[position].image.numpy().transpose(1, 2, 0)
        assert any(
            np.array_equal(crop, inside[y : y + 16, x : x + 16])
            for y in range(5)
            for x in range(15)
        )


def test_an_unreadable_file_gives_its_place_to_the_next_one(tmp_path):
    files = write_pictures(tmp_path, 4)
    bad = write_truncated_jpeg(tmp_path / "picture_001.jpg")
    (tmp_path / "zzz.png").write_text("no picture")
    files = list_images(tmp_path)
    assert [file.name for file in files][1:3] == ["picture_001.jpg", "picture_001.png"]
    stream = ImageStream(files, size=32, crop="center", shuffle=False)
    for epoch in range(2):
        sample = stream[6 * epoch + 1]
        assert np.array_equal(
            sample.image.numpy(), pixels(1, 48, 40)[4:36, 8:40].transpose(2, 0, 1)
        )
        assert sample.skipped == (str(bad),)
        assert torch.equal(stream[6 * epoch + 5].image, stream[0].image)  # round the corner
        assert stream[6 * epoch].skipped == ()
    (batch,) = take(stream, 1, batch_size=6)
    assert set(batch.skipped) == {str(bad), str(tmp_path / "zzz.png")}
    cached = ImageStream(files, size=32, crop="center", shuffle=False, cache=True)
    assert torch.equal(images_of(cached, 3), images_of(stream, 3))


def test_nothing_readable_is_an_error_at_once(tmp_path):
    write_truncated_jpeg(tmp_path / "a.jpg")
    (tmp_path / "b.png").touch()
    with pytest.raises(DataError, match=r"none of the 2 pictures can be read.*a\.jpg"):
        ImageStream(list_images(tmp_path), size=32)


def test_a_picture_too_thin_to_be_resized_gives_its_place_to_the_next_one(tmp_path):
    thin = tmp_path / "a.png"
    Image.new("RGB", (12000, 1)).save(thin)
    with pytest.raises(
        DataError, match=r"none of the 1 pictures can be read; .*a\.png is too thin"
    ):
        ImageStream([thin], size=16, resize=256)
    files = [thin, *write_pictures(tmp_path / "sound", 1)]
    stream = ImageStream(files, size=256, resize=256, shuffle=False)
    assert [stream[position].skipped for position in (0, 1)] == [(str(thin),), ()]


def test_a_region_smaller_than_the_crop_names_the_file_at_once(tmp_path):
    write_pictures(tmp_path / "a", 1, width=80, height=80)
    (small,) = write_pictures(tmp_path / "b", 1, width=80, height=40)
    with pytest.raises(
        DataError, match="80 x 40 pixels is 80 x 20, smaller than a crop of 32"
    ) as e:
        ImageStream(list_images(tmp_path), size=32, region=(0, 0, 1, 0.5))
    assert str(small) in str(e.value)
    with pytest.raises(DataError, match="fewer than a crop of 64"):
        ImageStream(list_images(tmp_path), size=64)
    ImageStream(list_images(tmp_path), size=64, resize=64)


def test_a_region_that_rounding_makes_too_small_in_a_longer_picture_is_told_at_once(tmp_path):
    (square,) = write_pictures(tmp_path / "a", 1, width=64, height=64)
    (longer,) = write_pictures(tmp_path / "b", 1, width=65, height=64)
    settings = {"size": 32, "resize": 64, "region": (0.25, 0, 0.75, 1)}
    ImageStream([square], **settings)
    with pytest.raises(DataError, match="its 65 x 64 pixels after resizing is 31 x 64") as error:
        ImageStream([square, longer], **settings)
    assert str(longer) in str(error.value)


def test_pictures_that_are_too_small_are_counted_and_the_first_are_named(tmp_path, capsys):
    files = write_pictures(tmp_path / "small", 7, width=80, height=30)
    write_pictures(tmp_path / "large", 2, width=80, height=80)
    with pytest.raises(DataError, match="7 of 9 pictures are too small:") as error:
        ImageStream(list_images(tmp_path), size=32)
    told = str(error.value)
    assert all(str(file) in told for file in files[:5]) and "and 2 more" in told
    assert "its 80 x 30 pixels are fewer than a crop of 32 x 32" in told
    assert "region" not in told
    assert not capsys.readouterr().err  # a bar is for sets that take a while


def test_pixels_and_floats_convert_without_loss():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_model_range(every)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_pixels(floats), every)
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_an_unknown_crop_is_an_error(files):
    with pytest.raises(ValueError, match="crop must be 'random' or 'center', got 'left'"):
        ImageStream(files, size=32, crop="left")
