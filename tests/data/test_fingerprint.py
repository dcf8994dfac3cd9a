"""Fingerprints of training data, which machines compare: what changes them, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

from vqgan_fast.data import data_fingerprint
from vqgan_fast.data.classes import ClassLabel
from vqgan_fast.data.keypoints import Keypoints
from vqgan_fast.data.maps import Coordinates, Depth, Segmentation

FILES = [Path("photos/a.jpg"), Path("photos/b.jpg")]


def test_pictures_may_move_and_not_change_their_order():
    expected = data_fingerprint(FILES, [])
    assert expected.startswith("2 pictures, ")
    assert data_fingerprint([Path("elsewhere", file.name) for file in FILES], []) == expected
    assert data_fingerprint(FILES[::-1], []) != expected
    assert data_fingerprint(FILES, [Coordinates()]) == expected  # is made of the picture


def test_maps_count_with_their_names_and_kind():
    maps = [Path("maps/a.png"), Path("maps/b.png")]
    expected = data_fingerprint(FILES, [Depth(maps)])
    assert data_fingerprint(FILES, [Depth([Path("moved/a.png"), Path("moved/b.png")])]) == expected
    for other in (Depth([maps[0], Path("maps/b.tif")]), Segmentation(maps, 3)):
        assert data_fingerprint(FILES, [other]) != expected


def test_classes_count_with_the_picture_that_they_are_of():
    expected = data_fingerprint(FILES, [ClassLabel(["cat", "dog"], [0, 1])])
    for other in (
        ClassLabel(["cat", "dog"], [1, 0]),
        ClassLabel(["ant", "cat", "dog"], [1, 2]),  # a folder more on one machine
        ClassLabel(["cat", "owl"], [0, 1]),
    ):
        assert data_fingerprint(FILES, [other]) != expected


def test_keypoints_count_with_their_places(tmp_path):
    def fingerprint(x: float) -> str:
        content = {
            "images": [
                {"id": n, "file_name": file.name, "width": 40, "height": 30}
                for n, file in enumerate(FILES)
            ],
            "annotations": [{"image_id": 0, "category_id": 1, "keypoints": [x, 2, 2]}],
            "categories": [{"id": 1, "skeleton": []}],
        }
        (tmp_path / "poses.json").write_text(json.dumps(content))
        return data_fingerprint(FILES, [Keypoints(FILES, tmp_path / "poses.json")])

    assert fingerprint(3) == fingerprint(3) != fingerprint(4)
