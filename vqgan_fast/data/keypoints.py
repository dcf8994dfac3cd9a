"""Poses as pictures: keypoints of an annotation file in COCO's format, as limbs and joints."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .images import DataError, PictureFile
from .maps import CropMap
from .places import place_of
from .stream import View


class Person(NamedTuple):
    """`joints` (J, 3): x, y in pixels of the picture, COCO's visibility (0: not labelled)."""

    joints: np.ndarray
    limbs: list[tuple[int, int]]


class Keypoints(CropMap):
    """The people of a picture, each limb and joint in a colour of its own, on black.

    Args:
        files: the stream's pictures; an annotation belongs to the one of its `file_name`.
        annotations: a JSON file in COCO's format for keypoints.

    Raises:
        DataError: the file is not of that format, has no entry for a picture, or has a keypoint
            outside its picture; file and picture are named.
    """

    channels = 3

    def __init__(self, files: Sequence[PictureFile], annotations: Path) -> None:
        self.names = [place_of(file).name for file in files]
        self.sizes, self.people = read_keypoints(annotations)
        missing = [name for name in self.names if name not in self.sizes]
        if missing:
            raise DataError(
                f"{annotations} has no entry for {len(missing)} of {len(self.names)} pictures, "
                f"{missing[0]} first"
            )

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        name = self.names[index]
        height, width = picture.shape[:2]
        scale = np.array([width, height]) / self.sizes[name]
        canvas = Image.new("RGB", (width, height))
        for person in self.people[name]:
            draw_person(canvas, person, scale)
        return view.cut(np.asarray(canvas))


def draw_person(canvas: Image.Image, person: Person, scale: np.ndarray) -> None:
    """Draws one person on the canvas, whose pixels are `scale` of those that joints are in."""
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(min(canvas.size) / 64))
    points = [tuple(point) for point in person.joints[:, :2] * scale]
    seen = person.joints[:, 2] > 0
    for number, (a, b) in enumerate(person.limbs):
        if seen[a] and seen[b]:
            draw.line([points[a], points[b]], _hue(number / len(person.limbs)), width)
    for number, (x, y) in enumerate(points):
        if seen[number]:
            box = (x - width, y - width, x + width, y + width)
            draw.ellipse(box, _hue(number / len(points), saturation=0.4))


def read_keypoints(
    file: Path,
) -> tuple[dict[str, tuple[int, int]], dict[str, list[Person]]]:
    """(width, height) and people of each picture of an annotation file, by file name."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        limbs = {
            category["id"]: [(a - 1, b - 1) for a, b in category.get("skeleton", [])]
            for category in content["categories"]
        }
        images = {image["id"]: image for image in content["images"]}
        sizes = {image["file_name"]: (image["width"], image["height"]) for image in images.values()}
        people: dict[str, list[Person]] = {name: [] for name in sizes}
        for annotation in content["annotations"]:
            name = images[annotation["image_id"]]["file_name"]
            joints = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
            _check_inside(file, name, joints, sizes[name])
            people[name].append(Person(joints, limbs[annotation["category_id"]]))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no file of keypoints {file}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is not in COCO's format for keypoints ({type(error).__name__}: {error})"
        ) from error
    return sizes, people


def _check_inside(file: Path, name: str, joints: np.ndarray, size: tuple[Any, Any]) -> None:
    seen = joints[joints[:, 2] > 0, :2]
    outside = (seen < 0) | (seen > np.array(size))
    if outside.any():
        x, y = seen[outside.any(axis=1)][0]
        raise DataError(
            f"{file}: a keypoint at ({x:g}, {y:g}) lies outside {name} of {size[0]} x {size[1]} "
            f"pixels"
        )


def _hue(hue: float, saturation: float = 1.0) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, 1))
    return red, green, blue
