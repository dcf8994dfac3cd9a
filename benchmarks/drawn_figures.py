"""Pictures of drawn figures with their keypoints, for poses: no photographs of people ship."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE, SCALE = (192, 96), 4  # width and height in pixels; drawn so many times larger
JOINTS = [
    "head", "neck", "left_elbow", "left_hand", "right_elbow", "right_hand", "hip", "left_knee",
    "left_foot", "right_knee", "right_foot",
]  # fmt: skip
# (from, to, length in heights of the figure, usual angle from straight down, its spread)
BONES = [
    ("neck", "head", 0.2, 180, 15), ("neck", "left_elbow", 0.2, 50, 45),
    ("left_elbow", "left_hand", 0.2, 60, 70), ("neck", "right_elbow", 0.2, -50, 45),
    ("right_elbow", "right_hand", 0.2, -60, 70), ("neck", "hip", 0.35, 0, 10),
    ("hip", "left_knee", 0.25, 20, 25), ("left_knee", "left_foot", 0.25, 10, 25),
    ("hip", "right_knee", 0.25, -20, 25), ("right_knee", "right_foot", 0.25, -10, 25),
]  # fmt: skip


def write_figures(folder: Path, pictures: int = 40, figures: int = 6, seed: int = 0) -> Path:
    """Writes `pictures/*.png` and `keypoints.json`, in COCO's format, below the folder."""
    random = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(pictures):
        name = f"figures_{number:03d}.png"
        picture, people = draw_picture(random, figures)
        picture.save(folder / "pictures" / name)
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for person in people:
            joints = [value for x, y in person for value in (round(x, 2), round(y, 2), 2)]
            annotations.append({"image_id": number, "category_id": 1, "keypoints": joints})
    skeleton = [[JOINTS.index(a) + 1, JOINTS.index(b) + 1] for a, b, *_ in BONES]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "figure", "keypoints": JOINTS, "skeleton": skeleton}],
    }
    (folder / "keypoints.json").write_text(json.dumps(content))
    return folder


def draw_picture(
    random: np.random.Generator, figures: int
) -> tuple[Image.Image, list[list[tuple[float, float]]]]:
    """One picture, and the (x, y) of each figure's joints in its pixels."""
    canvas = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), _colour(random, 0.5, 0.9))
    draw = ImageDraw.Draw(canvas)
    ground = random.uniform(0.5, 0.8) * canvas.height
    draw.rectangle((0, ground, canvas.width, canvas.height), _colour(random, 0.3, 0.7))
    people = []
    for number in range(figures):
        height = random.uniform(0.4, 0.55) * SIZE[1]
        neck = ((number + random.uniform(0.3, 0.7)) * SIZE[0] / figures, random.uniform(16, 50))
        joints = pose(random, neck, height)
        people.append([joints[name] for name in JOINTS])
        draw_figure(draw, joints, height)
    return canvas.resize(SIZE, Image.Resampling.BOX), people


def pose(
    random: np.random.Generator, neck: tuple[float, float], height: float
) -> dict[str, tuple[float, float]]:
    """Where each joint of a figure in a random pose is, inside the picture."""
    joints = {"neck": neck}
    for start, end, length, angle, spread in BONES:
        turned = math.radians(random.normal(angle, spread / 2))
        x, y = joints[start]
        x, y = x + math.sin(turned) * length * height, y + math.cos(turned) * length * height
        joints[end] = (min(max(x, 0.0), SIZE[0] - 1.0), min(max(y, 0.0), SIZE[1] - 1.0))
    return joints


def draw_figure(
    draw: ImageDraw.ImageDraw, joints: dict[str, tuple[float, float]], height: float
) -> None:
    """A figure with a red shirt, blue trousers and a round head."""
    shirt, trousers, skin = (220, 60, 50), (40, 50, 110), (225, 180, 150)
    width = round(0.13 * height * SCALE)
    large = {name: (x * SCALE, y * SCALE) for name, (x, y) in joints.items()}
    for start, end, *_ in reversed(BONES):
        arm = end.endswith("hand")
        colour = trousers if end.endswith(("knee", "foot")) else skin if arm else shirt
        thick = round(1.6 * width) if end == "hip" else width
        draw.line([large[start], large[end]], colour, thick)
        for x, y in (large[start], large[end]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), colour)
    (x, y), radius = large["head"], 0.11 * height * SCALE
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), skin)


def _colour(random: np.random.Generator, low: float, high: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in random.uniform(low, high, 3))
    return red, green, blue
