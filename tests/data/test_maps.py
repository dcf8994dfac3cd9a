"""Maps beside pictures: their values, their place, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import pixels, write_pictures
from torch.nn import functional as F

from vqgan_fast.data import DataError
from vqgan_fast.data.crops import Box
from vqgan_fast.data.keypoints import Keypoints, pair_with_keypoints
from vqgan_fast.data.maps import Coordinates, Depth, Edges, LowResolution, Segmentation
from vqgan_fast.data.stream import View

PICTURE = pixels(1, 48, 40)
VIEW = View(Box(5, 3, 37, 35), mirrored=False)
MIRRORED = VIEW._replace(mirrored=True)


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [VIEW, MIRRORED])
def test_segmentation(tmp_path: Path, view: View) -> None:
    labels = np.random.default_rng(0).integers(0, 7, (40, 48), dtype=np.uint8)
    maps = Segmentation([save(tmp_path / "a.png", labels)], n_labels=7)
    crop = maps.crop(0, PICTURE, view)
    expected = labels[3:35, 5:37]
    expected = expected[:, ::-1] if view.mirrored else expected
    assert np.array_equal(crop[..., 0], expected)
    x = maps.to_model(torch.from_numpy(crop.transpose(2, 0, 1).copy())[None])
    assert x.shape == (1, 7, 32, 32)
    assert torch.equal(x.sum(1), torch.ones(1, 32, 32))
    assert np.array_equal(x.argmax(1)[0].numpy(), expected)
    assert len(maps.draw(x)[0].flatten(1).T.unique(dim=0)) == 7


def test_labels_are_never_mixed_when_resized(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).choice([0, 100, 200], (80, 96)).astype(np.uint8)
    maps = Segmentation([save(tmp_path / "a.png", labels)], n_labels=201)
    assert set(np.unique(maps.crop(0, PICTURE, VIEW))) <= {0, 100, 200}


def test_the_shift_of_labels_wraps_in_a_byte(tmp_path: Path) -> None:
    labels = np.full((40, 48), 255, dtype=np.uint8)
    labels[:, 24:] = 181
    maps = Segmentation([save(tmp_path / "a.png", labels)], n_labels=183, shift=1)
    assert set(np.unique(maps.crop(0, PICTURE, VIEW))) == {0, 182}


def test_labels_out_of_range_name_their_file(tmp_path: Path) -> None:
    file = save(tmp_path / "bad.png", np.full((40, 48), 151, dtype=np.uint8))
    with pytest.raises(DataError, match=r"bad\.png holds label 151; .* \[0, 150\]"):
        Segmentation([file], n_labels=151).crop(0, PICTURE, VIEW)
    colour = save(tmp_path / "colour.png", PICTURE)
    with pytest.raises(DataError, match=r"colour\.png must have one byte a pixel.*RGB"):
        Segmentation([colour], n_labels=151).crop(0, PICTURE, VIEW)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png cannot be read as a map"):
        Segmentation([tmp_path / "text.png"], n_labels=151).crop(0, PICTURE, VIEW)


# --- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float in four bytes", "16 bits", "8 bits"])
def test_depth_is_normalised_for_each_picture(tmp_path: Path, form: str) -> None:
    depth = np.random.default_rng(0).uniform(0, 250, (40, 48)).astype(np.float32)
    if form == "float in four bytes":
        file = save(tmp_path / "a.png", depth.view(np.uint8).reshape(40, 48, 4))
    else:
        depth = depth.astype(np.uint8 if form == "8 bits" else np.uint16)
        file = save(tmp_path / "a.png", depth)
    maps = Depth([file])
    crop = maps.crop(0, PICTURE, VIEW)
    whole = depth.astype(np.float32)
    expected = (whole - whole.min()) / (whole.max() - whole.min())
    np.testing.assert_allclose(crop[..., 0], expected[3:35, 5:37], atol=1e-6)
    x = maps.to_model(torch.from_numpy(crop.transpose(2, 0, 1).copy())[None])
    np.testing.assert_allclose(x[0, 0].numpy(), 2 * crop[..., 0] - 1)
    assert maps.draw(x).shape == (1, 3, 32, 32)


def test_flat_depth_and_depth_that_is_not_finite(tmp_path: Path) -> None:
    flat = np.full((40, 48), 3, dtype=np.uint8)
    assert Depth([save(tmp_path / "flat.png", flat)]).crop(0, PICTURE, VIEW).max() == 0
    nan = np.full((40, 48), np.nan, dtype=np.float32).view(np.uint8).reshape(40, 48, 4)
    with pytest.raises(DataError, match=r"nan\.png holds a depth that is not finite"):
        Depth([save(tmp_path / "nan.png", nan)]).crop(0, PICTURE, VIEW)
    with pytest.raises(DataError, match="must have one channel, or four bytes"):
        Depth([save(tmp_path / "rgb.png", PICTURE)]).crop(0, PICTURE, VIEW)


# --- made of the crop itself --------------------------------------------------------------------


def test_edges_are_where_the_picture_changes() -> None:
    picture = np.zeros((40, 48, 3), dtype=np.uint8)
    picture[:, 20:] = 255
    crop = Edges().crop(0, picture, VIEW)
    rows, columns = np.nonzero(crop[..., 0])
    assert len(rows) >= 28
    assert set(columns) <= {14, 15}  # 20 - 5, within a pixel
    assert set(np.unique(crop)) == {0, 255}
    mirrored = Edges().crop(0, picture, MIRRORED)
    assert set(np.nonzero(mirrored[..., 0])[1]) <= {16, 17}


def test_low_resolution() -> None:
    crop = LowResolution(8).crop(0, PICTURE, VIEW)
    assert crop.shape == (32, 32, 3)
    image = Image.fromarray(np.ascontiguousarray(PICTURE[3:35, 5:37]))
    small = image.resize((4, 4), Image.Resampling.BICUBIC)
    assert np.array_equal(crop, np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("view", [VIEW, MIRRORED])
def test_coordinates(view: View) -> None:
    crop = Coordinates().crop(0, PICTURE, view)[..., 0]
    whole = np.arange(40 * 48, dtype=np.float64).reshape(40, 48) / (40 * 48)
    expected = whole[3:35, 5:37]
    expected = expected[:, ::-1] if view.mirrored else expected
    np.testing.assert_allclose(crop, expected, atol=1e-7)
    pooled = F.avg_pool2d(Coordinates().to_model(torch.from_numpy(crop.copy())[None, None]), 8)
    assert 0 <= float(pooled.min()) < float(pooled.max()) < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segmentation([], 0), r"n_labels must lie in \[1, 256\], got 0"),
        (lambda: Edges(0), "sigma must be positive, got 0"),
        (lambda: LowResolution(1), "factor must be at least 2, got 1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- poses --------------------------------------------------------------------------------------


def coco(joints: list[float], name: str = "picture_000.png") -> dict:
    return {
        "images": [{"id": 7, "file_name": name, "width": 96, "height": 80}],
        "categories": [{"id": 1, "skeleton": [[1, 2]]}],
        "annotations": [{"image_id": 7, "category_id": 1, "keypoints": joints}],
    }


def keypoints(tmp_path: Path, content: object) -> Keypoints:
    files = write_pictures(tmp_path / "photos", 1)
    (tmp_path / "poses.json").write_text(json.dumps(content))
    return Keypoints(files, tmp_path / "poses.json")


def test_a_pose_is_drawn_where_it_is(tmp_path: Path) -> None:
    """The picture is 48 x 40 after resizing, half of what the joints are in."""
    maps = keypoints(tmp_path, coco([20, 20, 2, 60, 20, 2]))
    crop = maps.crop(0, PICTURE, VIEW)
    rows, columns = np.nonzero(crop.sum(-1))
    assert (columns.min(), columns.max()) == (10 - 2 - 5, 30 + 2 - 5)
    assert abs(rows.mean() - (10 - 3)) < 1
    mirrored = maps.crop(0, PICTURE, MIRRORED)
    assert np.array_equal(mirrored, crop[:, ::-1])


def test_joints_without_a_label_are_not_drawn(tmp_path: Path) -> None:
    assert keypoints(tmp_path, coco([0, 0, 0, -5, 999, 0])).crop(0, PICTURE, VIEW).sum() == 0


def test_bad_files_of_keypoints(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"poses\.json: a keypoint at \(97, 20\) lies outside pict"):
        keypoints(tmp_path, coco([97, 20, 2, 60, 20, 2]))
    with pytest.raises(DataError, match=r"1 of 1 pictures .*\n.*picture_000\.png: no entry of"):
        keypoints(tmp_path, coco([20, 20, 2, 60, 20, 2], name="other.png"))
    with pytest.raises(DataError, match=r"at \(nan, 20\) lies outside picture_000\.png"):
        keypoints(tmp_path, coco([float("nan"), 20, 2, 60, 20, 2]))
    with pytest.raises(DataError, match=r"picture_000\.png has 1 keypoints, fewer than the skel"):
        keypoints(tmp_path, coco([20, 20, 2]))
    with pytest.raises(DataError, match=r"is not in COCO's format for keypoints \(KeyError"):
        keypoints(tmp_path, {"images": []})
    with pytest.raises(DataError, match="there is no file of keypoints"):
        Keypoints([], tmp_path / "nowhere.json")


def test_pictures_without_an_entry_of_their_size_are_listed_or_left_out(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "photos" / "a", 3) + write_pictures(tmp_path / "photos/b", 1)
    sizes = {"a/picture_000.png": 48, "picture_001.png": 48, "picture_002.png": 49}
    content = {
        "images": [
            {"id": number, "file_name": name, "width": width, "height": 40}
            for number, (name, width) in enumerate(sizes.items())
        ],
        "categories": [],
        "annotations": [],
    }
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        pair_with_keypoints(files, poses)
    message = str(error.value)
    assert message.startswith(f"2 of 4 pictures have no fitting map in {poses}")
    assert "b/picture_000.png: no entry of that name" in message
    assert f"picture_002.png is 48 x 40 pixels, its entry in {poses} 49 x 40" in message
    assert list(pair_with_keypoints(files, poses, unpaired="skip").pictures) == files[:2]
    # A bare name is that of one picture; whose it is among two cannot be told.
    content["images"][0]["file_name"] = "picture_000.png"
    poses.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"b/picture_000\.png: the entry .* is that of .*a/picture"):
        Keypoints(files, poses)
    for order in (files, files[::-1]):
        posed = pair_with_keypoints(order, poses, unpaired="skip")
        assert list(posed.pictures) == [files[1]] and posed.maps.names == ["picture_001.png"]
    (tmp_path / "photos" / "a" / "picture_001.png").write_text("no picture")
    assert list(pair_with_keypoints(files, poses, unpaired="skip").pictures) == [files[1]]
    assert len(pair_with_keypoints([*files[:2], files[0]], poses).pictures) == 3


def test_a_map_that_its_file_says_lies_on_its_side(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(labels).save(tmp_path / "map.png", exif=exif)
    read = np.asarray(Segmentation([], 12).read(tmp_path / "map.png"))
    assert np.array_equal(read, np.rot90(labels, -1))
