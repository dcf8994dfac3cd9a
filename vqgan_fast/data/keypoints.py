"""Poses as pictures: keypoints of an annotation file in COCO's format, as limbs and joints."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .images import DataError, PictureFile, UnreadableImageError, read_size
from .maps import CropMap
from .pairs import settle_problems
from .places import Picked, place_of
from .stream import View


class Person(NamedTuple):
    """`joints` (J, 3): x, y in pixels of the picture, COCO's visibility (0: not labelled)."""

    joints: np.ndarray
    limbs: list[tuple[int, int]]


class Poses(NamedTuple):
    """An annotation file: (width, height) and people of each picture, by `file_name`."""

    file: Path
    sizes: dict[str, tuple[int, int]]
    people: dict[str, list[Person]]


class Keypoints(CropMap):
    """The people of a picture, each limb and joint in a colour of its own, on black.

    Args:
        files: the stream's pictures; an annotation belongs to the one whose path ends in its
            `file_name`.
        annotations: a JSON file in COCO's format for keypoints, or what `read_keypoints` read.

    Raises:
        DataError: the file is not of that format, has no entry for a picture or one entry for two,
            or has a keypoint outside its picture; file and picture are named.
    """

    channels = 3

    def __init__(self, files: Sequence[PictureFile], annotations: Path | Poses) -> None:
        poses = annotations if isinstance(annotations, Poses) else read_keypoints(annotations)
        self.sizes, self.people = poses.sizes, poses.people
        self.names, problems = _entries(files, self.sizes)
        settle_problems(problems, len(files), poses.file, "refuse")

    def content(self) -> Iterator[str]:
        for name in self.names:
            people = [(person.joints.tolist(), person.limbs) for person in self.people[name]]
            yield f"{name} {self.sizes[name]} {people}"

    def crop(self, index: int, picture: np.ndarray, view: View) -> np.ndarray:
        name = self.names[index]
        height, width = picture.shape[:2]
        scale = np.array([width, height]) / self.sizes[name]
        canvas = Image.new("RGB", (width, height))
        for person in self.people[name]:
            draw_person(canvas, person, scale)
        return view.cut(np.asarray(canvas))


class Posed(NamedTuple):
    """Pictures with an entry in a file of keypoints; `left_out` says which had none and why."""

    pictures: Sequence[PictureFile]
    maps: Keypoints
    left_out: list[str]


def pair_with_keypoints(
    pictures: Sequence[PictureFile], annotations: Path, *, unpaired: str = "refuse"
) -> Posed:
    """The pictures that a file of keypoints tells of, and that are as large as it says.

    Of a picture that cannot be read nothing is said here: a stream passes over it.

    Args:
        annotations: as for `Keypoints`.
        unpaired: "refuse" raises where a picture has no entry of its size; "skip" leaves it out.

    Raises:
        DataError: as said, with the files named; no picture is left; as Keypoints.
        ValueError: `unpaired` is neither.
    """
    poses = read_keypoints(annotations)
    names, problems = _entries(pictures, poses.sizes)
    kept = []
    for number, name in enumerate(names):
        if name is None:
            continue
        problem = _misfit(pictures[number], poses.sizes[name], annotations)
        if problem is None:
            kept.append(number)
        else:
            problems.append(problem)
    settle_problems(problems, len(pictures), annotations, unpaired)
    posed = Picked(pictures, kept)
    return Posed(posed, Keypoints(posed, poses), problems)


def _entries(
    files: Sequence[PictureFile], sizes: Mapping[str, tuple[int, int]]
) -> tuple[list[str | None], list[str]]:
    """The `file_name` in which each picture's path ends, the longest one; None where there is none,
    or another picture's path ends in it as well, and a line for each of those."""
    ends = [_entry(file, sizes) for file in files]
    owners: dict[str, list[str]] = {}
    for file, end in zip(files, ends, strict=True):
        owners.setdefault(end, []).append(str(file))
    names: list[str | None] = []
    problems = []
    for file, end in zip(files, ends, strict=True):
        other = next((owner for owner in owners[end] if owner != str(file)), None)
        if end is None:
            problems.append(f"{file}: no entry of that name")
        elif other is not None:
            problems.append(f"{file}: the entry {end} is that of {other} as well")
        names.append(end if other is None else None)
    return names, problems


def _entry(file: PictureFile, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    parts = place_of(file).parts
    ends = ("/".join(parts[-count:]) for count in range(len(parts), 0, -1))
    return next((end for end in ends if end in sizes), None)


def _misfit(picture: PictureFile, size: tuple[int, int], annotations: Path) -> str | None:
    try:
        width, height = read_size(picture)
    except UnreadableImageError:
        return None
    if (width, height) == tuple(size):
        return None
    return (
        f"{picture} is {width} x {height} pixels, its entry in {annotations} {size[0]} x {size[1]}"
    )


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


def read_keypoints(file: Path) -> Poses:
    """An annotation file in COCO's format.

    Raises:
        DataError: it is not of that format, or has a keypoint outside its picture.
    """
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
            limbs_of_person = limbs[annotation["category_id"]]
            if any(not 0 <= end < len(joints) for limb in limbs_of_person for end in limb):
                raise ValueError(f"{name} has {len(joints)} keypoints, fewer than the skeleton")
            people[name].append(Person(joints, limbs_of_person))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no file of keypoints {file}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is not in COCO's format for keypoints ({type(error).__name__}: {error})"
        ) from error
    return Poses(file, sizes, people)


def _check_inside(file: Path, name: str, joints: np.ndarray, size: tuple[Any, Any]) -> None:
    seen = joints[joints[:, 2] > 0, :2]
    outside = ~((seen >= 0) & (seen <= np.array(size)))  # also where a NaN is
    if outside.any():
        x, y = seen[outside.any(axis=1)][0]
        raise DataError(
            f"{file}: a keypoint at ({x:g}, {y:g}) lies outside {name} of {size[0]} x {size[1]} "
            f"pixels"
        )


def _hue(hue: float, saturation: float = 1.0) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, 1))
    return red, green, blue
