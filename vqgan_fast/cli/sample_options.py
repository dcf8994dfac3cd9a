"""The options of `vqgan-fast sample`, in groups, and what they mean for `sampling.sample`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Everything that decides what is drawn, and how fast."""
    _add_size(parser)
    _add_draw(parser.add_argument_group("how codes are drawn"))
    _add_condition(parser.add_argument_group("conditions and completion"))
    _add_speed(parser.add_argument_group("schedule and speed"))


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `sampling.sample` that need no model."""
    names = (
        "grid", "size", "window", "schedule", "order", "stride", "temperature", "top_k", "top_p",
        "min_p", "greedy", "guidance", "tile", "max_cache_bytes",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names}


def _add_size(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--grid",
        type=_height_x_width,
        metavar="HxW",
        help="height x width in codes (default: that of the training crop)",
    )
    size.add_argument(
        "--size",
        type=_height_x_width,
        metavar="HxW",
        help="height x width in pixels, multiples of the downsampling factor, instead of --grid",
    )
    parser.add_argument(
        "--window",
        type=positive,
        help="side of the sliding window in codes (default: that of the training crop)",
    )


def _add_draw(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        help="above 1 is wilder, below 1 is tamer, 0 is --greedy (default: 1.0)",
    )
    group.add_argument(
        "--top-k", type=positive, help="draw from the k likeliest codes (default: all)"
    )
    group.add_argument(
        "--top-p",
        type=_share,
        help="draw from the likeliest codes that hold this share of the probability (default: all)",
    )
    group.add_argument(
        "--min-p",
        type=_share,
        help="draw from the codes with at least this share of the likeliest one's probability "
        "(default: all)",
    )
    group.add_argument("--greedy", action="store_true", help="always take the likeliest code")
    candidates = group.add_mutually_exclusive_group()
    candidates.add_argument(
        "--best-of",
        type=positive,
        metavar="N",
        help="draw N candidates, keep the --number likeliest ones; of --held-out the first "
        "condition's",
    )
    candidates.add_argument(
        "--acceptance-rate",
        type=_share,
        metavar="SHARE",
        help="the same, told by the share of the candidates that is kept, such as 0.05",
    )
    group.add_argument(
        "--classifier",
        nargs=2,
        metavar=("NAME", "FILE"),
        help="keep those of which this classifier of torchvision is surest, such as resnet101 with "
        "a file of its weights",
    )
    group.add_argument(
        "--label", type=int, help="the class for --classifier (default: that of --cond)"
    )


def _add_condition(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cond",
        metavar="TOKEN",
        help="the condition's token, such as a class, or the class's name (default: the model's "
        "own condition)",
    )
    maps = group.add_mutually_exclusive_group()
    maps.add_argument(
        "--condition",
        nargs="+",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="maps, for models conditioned on them; their size decides the grid. Of edges: the "
        "picture; of low_resolution: the small picture; of poses: a JSON file in COCO's format. "
        "Once for each kind of map, in the order of condition.parts",
    )
    maps.add_argument(
        "--held-out",
        action="store_true",
        help="the conditions of the run's held-out pictures; page.png shows both beside samples",
    )
    group.add_argument(
        "--uncond",
        type=int,
        metavar="TOKEN",
        help="the token that stands in each place of no condition, for --guidance",
    )
    group.add_argument(
        "--guidance",
        type=_guidance,
        default=1.0,
        metavar="G",
        help="classifier-free guidance: 1 is none, or FROM:TO for a change from the picture's top "
        "to its bottom (default: 1)",
    )
    group.add_argument(
        "--complete",
        type=Path,
        metavar="PICTURE",
        help="keep a part of this picture and draw the rest; its size decides the grid",
    )
    part = group.add_mutually_exclusive_group()
    part.add_argument(
        "--mask",
        type=Path,
        metavar="PICTURE",
        help="white where --complete draws anew (default: the lower half)",
    )
    for name, what in (("draw", "draw anew inside"), ("keep", "keep only what is inside")):
        part.add_argument(
            f"--{name}-box",
            type=_box,
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            help=f"{what} this box of pixels of the --complete picture",
        )


def _add_speed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--schedule",
        choices=("exact", "block", "native"),
        help="exact: the reference's sliding window. block: many times faster on large grids, "
        "other pictures. native: for models trained with transformer=window_gpt (default: what "
        "fits the model, exact or native)",
    )
    group.add_argument(
        "--order",
        choices=("wavefront", "raster"),
        default="wavefront",
        help="cells at once or one by one; the pictures are the same (default: wavefront)",
    )
    group.add_argument(
        "--stride",
        type=positive,
        help="of the block schedule: larger is faster, smaller shows each code more (default: half "
        "the window)",
    )
    group.add_argument(
        "--weights",
        choices=("float32", "bfloat16", "int8"),
        help="what weights are held in: half or a quarter of the memory traffic for small changes "
        "(default: as trained)",
    )
    group.add_argument(
        "--tile",
        type=partial(_at_least, 2),
        metavar="CODES",
        help="decode in overlapping tiles of this side where the grid is larger (default: whole)",
    )
    group.add_argument(
        "--cache-gb",
        dest="max_cache_bytes",
        type=_gigabytes,
        default=2**32,
        metavar="GB",
        help="for keys and values; with less, windows are computed again (default: 4.3)",
    )


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """An integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return value


def _temperature(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text}")
    return value


def _gigabytes(text: str) -> int:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return round(1e9 * value)


def _number(text: str) -> float:
    """NaN where it is none: no range holds that."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _guidance(text: str) -> float | Callable[[float], float]:
    first, colon, last = text.partition(":")
    try:
        begin, end = float(first), float(last if colon else first)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number or two, FROM:TO, such as 3 or 1:4, got {text!r}"
        ) from None
    if not colon:
        return begin
    return lambda share: begin + share * (end - begin)


def _box(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected LEFT,TOP,RIGHT,BOTTOM in pixels, got {text!r}")
    left, top, right, bottom = map(int, parts)
    if left >= right or top >= bottom:
        raise argparse.ArgumentTypeError(f"expected LEFT < RIGHT and TOP < BOTTOM, got {text!r}")
    return left, top, right, bottom


def _height_x_width(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected height x width such as 16x64, got {text!r}")
    return int(height), int(width)
