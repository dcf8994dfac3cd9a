"""Pictures and maps of the same name, seen through the same crop."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import cut_in_half, write_pictures

from vqgan_fast.data import (
    DataError,
    ShardedPictures,
    batches,
    held_out_pairs,
    list_images,
)
from vqgan_fast.data.maps import Coordinates, Segmentation
from vqgan_fast.data.pairs import PairedStream, pair_by_name
from vqgan_fast.data.places import place_of
from vqgan_fast.data.stream import ImageStream
from vqgan_fast.data.write_shards import plan_shards, write_shards


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures in two folders, and maps whose labels are the red channel over 32."""
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    for folder in ("cats", "dogs"):
        (maps / folder).mkdir(parents=True)
        for file in write_pictures(photos / folder, 3):
            red = np.array(Image.open(file))[..., 0] // 32
            Image.fromarray(red).save(maps / folder / f"{file.stem}.png")
    return photos, maps


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_map_is_cropped_and_mirrored_like_its_picture(
    folders: tuple[Path, Path], num_workers: int
) -> None:
    photos, maps = folders
    pairs = pair_by_name(list_images(photos), photos, maps)
    kinds = [Segmentation(pairs.maps, 8), Coordinates()]
    settings = {"size": 16, "crop": "random", "flip": True, "seed": 3}
    stream = PairedStream(pairs.pictures, kinds, **settings)
    alone = ImageStream(pairs.pictures, **settings)
    for batch, plain in zip(
        batches(stream, 4, count=3, num_workers=num_workers),
        batches(alone, 4, count=3),
        strict=True,
    ):
        assert torch.equal(batch.images, plain.images)  # maps change nothing
        assert batch.positions == plain.positions
        labels, coordinates = batch.maps
        assert torch.equal(labels[:, 0], batch.images[:, 0] // 32)
        assert coordinates.shape == (4, 1, 16, 16)


def test_a_cache_holds_the_maps_as_well(folders: tuple[Path, Path]) -> None:
    photos, maps = folders
    pairs = pair_by_name(list_images(photos), photos, maps)
    settings = {"size": 16, "resize": 20, "flip": True}
    streams = [
        PairedStream(pairs.pictures, [Segmentation(pairs.maps, 8)], cache=cache, **settings)
        for cache in (False, True)
    ]
    first, kept = ([stream[p] for p in range(2 * len(pairs.maps))] for stream in streams)
    for file in pairs.maps:
        file.unlink()
    again = [streams[1][p] for p in range(2 * len(pairs.maps))]
    for plain, *cached in zip(first, kept, again, strict=True):
        assert all(torch.equal(sample.maps[0], plain.maps[0]) for sample in cached)


def test_what_does_not_pair_is_listed(folders: tuple[Path, Path]) -> None:
    photos, maps = folders
    files = list_images(photos)
    (maps / "cats" / "picture_000.png").unlink()
    Image.new("L", (48, 41)).save(maps / "cats" / "picture_001.png")
    Image.new("L", (48, 40)).save(maps / "dogs" / "picture_002.bmp")
    with pytest.raises(DataError) as error:
        pair_by_name(files, photos, maps)
    message = str(error.value)
    assert message.startswith("3 of 6 pictures have no fitting map")
    assert "no picture_000.* in" in message
    assert "is 48 x 40 pixels, its map" in message
    assert "48 x 41" in message
    assert "several maps, picture_002.bmp, picture_002.png" in message
    pairs = pair_by_name(files, photos, maps, unpaired="skip")
    assert len(pairs.left_out) == 3
    assert [file.stem for file in pairs.maps] == [file.stem for file in pairs.pictures]
    assert len(pairs.pictures) == 3


def test_what_does_not_pair_in_shards_is_listed_alike(folders: tuple[Path, Path]) -> None:
    photos, maps = folders
    (maps / "cats" / "picture_000.png").unlink()
    Image.new("L", (48, 41)).save(maps / "cats" / "picture_001.png")
    Image.new("L", (48, 40)).save(maps / "dogs" / "picture_002.bmp")
    pictures, of_maps = (
        ShardedPictures(write_shards(plan_shards(folder, 2), folder.parent / "tar" / folder.name))
        for folder in (photos, maps)
    )
    with pytest.raises(DataError) as error:
        pair_by_name(pictures, None, of_maps)
    message = str(error.value)
    assert message.startswith("3 of 6 pictures have no fitting map in")
    assert "photos-000000.tar:cats/picture_000.png: no picture_000.* in the shards of" in message
    assert (
        "is 48 x 40 pixels, its map" in message and "maps-000000.tar:cats/picture_001.p" in message
    )
    assert "several maps, picture_002.bmp, picture_002.png" in message
    pairs = pair_by_name(pictures, None, of_maps, unpaired="skip")
    names = ["cats/picture_002.png", "dogs/picture_000.png", "dogs/picture_001.png"]
    assert [file.member.name for file in pairs.pictures] == names
    assert [file.member.name for file in pairs.maps] == names
    (sample,) = PairedStream(pairs.pictures[:1], [Segmentation(pairs.maps[:1], 8)], size=16)[0].maps
    assert sample.shape == (1, 16, 16)
    empty = pair_by_name(pictures, None, maps, unpaired="skip")  # a folder of maps will do
    assert len(empty.pictures) == 3


@pytest.mark.parametrize("sharded", [False, True])
def test_a_pair_of_which_a_file_is_damaged_is_passed_over(
    folders: tuple[Path, Path], sharded: bool
) -> None:
    photos, maps = folders
    cut_in_half(maps / "cats" / "picture_001.png")  # its header is sound
    (photos / "dogs" / "picture_000.png").write_text("no picture")
    (maps / "dogs" / "picture_002.png").write_text("no picture")
    pictures, of_maps = list_images(photos), maps
    if sharded:
        pictures, of_maps = (
            ShardedPictures(write_shards(plan_shards(folder, 1), folder.parent / folder.name))
            for folder in folders
        )
    pairs = pair_by_name(pictures, None if sharded else photos, of_maps)
    assert len(pairs.pictures) == 6 and not pairs.left_out
    kinds = [Coordinates(), Segmentation(pairs.maps, 8)]
    settings = {"size": 16, "crop": "center", "shuffle": False}
    for cache in (False, True):
        (batch,) = batches(PairedStream(pairs.pictures, kinds, cache=cache, **settings), 6, count=1)
        assert batch.skipped == tuple(str(pairs.pictures[number]) for number in (1, 3, 5))
        assert torch.equal(batch.maps[1][:, 0], batch.images[:, 0] // 32)
        assert torch.equal(batch.images, batch.images[[0, 2, 2, 4, 4, 0]])
    told = r"3 held-out .*\n.*picture_000.*\n.*picture_001.*as a map"
    for center, count in ((False, 3 * 3 * 2), (True, 3)):
        with pytest.warns(UserWarning, match=told):
            crops = held_out_pairs(pairs.pictures, kinds, size=16, center=center)
        assert len(crops.images) == len(crops.maps[1]) == count
        assert torch.equal(crops.maps[1][:, 0], crops.images[:, 0] // 32)
        assert set(crops.skipped) == set(batch.skipped)
    assert torch.equal(crops.images, batch.images[[0, 2, 4]])


def test_no_readable_map_at_all_is_an_error(folders: tuple[Path, Path]) -> None:
    photos, maps = folders
    pairs = pair_by_name(list_images(photos), photos, maps)
    for file in pairs.maps:
        cut_in_half(file)
    kinds = [Segmentation(pairs.maps, 8)]
    with pytest.raises(DataError, match=r"none of the 6 .* any more; the last: .*as a map"):
        PairedStream(pairs.pictures, kinds, size=16)[0]
    with pytest.raises(DataError, match=r"none of the 6 .*\n.*as a map(.*\n){5}  and 1 more"):
        held_out_pairs(pairs.pictures, kinds, size=16)


def test_a_changed_shard_of_maps_is_no_damaged_map(folders: tuple[Path, Path]) -> None:
    photos, maps = folders
    (shard,) = write_shards(plan_shards(maps, 1), maps.parent / "maps")
    pairs = pair_by_name(list_images(photos), photos, ShardedPictures([shard]))
    os.utime(shard, ns=(0, 0))
    with pytest.raises(DataError, match=r"^the shard .*maps-000000\.tar was changed since"):
        PairedStream(pairs.pictures, [Segmentation(pairs.maps, 8)], size=16)[0]


@pytest.mark.parametrize("sharded", [False, True])
def test_the_whole_name_counts(tmp_path: Path, sharded: bool) -> None:
    for folder in ("photos", "maps"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "a.b.png", "a.b.c.png"):
            Image.new("L", (4, 4)).save(tmp_path / folder / name)
    photos, maps = tmp_path / "photos", tmp_path / "maps"
    if sharded:
        maps = ShardedPictures(write_shards(plan_shards(maps, 1), tmp_path / "maps"))
    pairs = pair_by_name(list_images(photos), photos, maps)
    names = [[place_of(file).name for file in files] for files in (pairs.pictures, pairs.maps)]
    assert names[0] == names[1] and len(set(names[0])) == 3


def test_other_errors(folders: tuple[Path, Path], tmp_path: Path) -> None:
    photos, maps = folders
    files = list_images(photos)
    with pytest.raises(DataError, match="there is no folder of maps"):
        pair_by_name(files, photos, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unpaired must be 'refuse' or 'skip'"):
        pair_by_name(files, photos, maps, unpaired="guess")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of the 6 .* the first: .*no picture_000\.\*"):
        pair_by_name(files, photos, tmp_path / "empty", unpaired="skip")
    with pytest.raises(ValueError, match="a file for each of the 6 pictures, got 1"):
        PairedStream(files, [Segmentation(files[:1], 8)], size=16)


def test_names_with_brackets(tmp_path: Path) -> None:
    for folder in ("photos", "maps"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "a[1].png")
    files = list_images(tmp_path / "photos")
    pairs = pair_by_name(files, tmp_path / "photos", tmp_path / "maps")
    assert pairs.maps == [tmp_path / "maps" / "a[1].png"]
