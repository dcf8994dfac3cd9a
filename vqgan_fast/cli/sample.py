"""`vqgan-fast sample`: new pictures from a trained transformer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .models import RUN_HELP, add_device, choose_device, load_transformer
from .outputs import add_force, refuse_existing, write_picture

SUMMARY = "sample new pictures, as large as the training crops or larger"
DESCRIPTION = """\
Draws pictures from a trained transformer. Every picture has a seed of its own, so that it comes
out the same whatever else is drawn with it: --seed 10 --number 3 gives the pictures of seeds 10, 11
and 12. A grid larger than the training crop is drawn by the exact sliding window, in which the
transformer always sees a neighbourhood as large as its training crop.
"""
EXAMPLES = """\
  vqgan-fast sample runs/gpt --number 16
  vqgan-fast sample runs/gpt --grid 16x64 --top-k 100 --temperature 0.9 --seed 7
  vqgan-fast sample runs/gpt --size 64x256 --output wide/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of stage 2")
    parser.add_argument(
        "--number", type=_positive, default=4, help="how many pictures (default: 4)"
    )
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
        type=_positive,
        help="side of the sliding window in codes (default: that of the training crop)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="above 1 is wilder, below 1 is tamer (default: 1.0)",
    )
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest codes (default: all)")
    parser.add_argument(
        "--top-p",
        type=float,
        help="draw from the likeliest codes that hold this share of the probability (default: all)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first picture (default: 0)"
    )
    parser.add_argument(
        "--batch", type=_positive, default=16, help="pictures drawn at once (default: 16)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for seed_*.png and, of several, grid.png (default: RUN/samples)",
    )
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    model = load_transformer(args.run_folder)
    folder = args.output or args.run_folder / "samples"
    seeds = range(args.seed, args.seed + args.number)
    files = [folder / f"seed_{seed:06d}.png" for seed in seeds]
    sheet = folder / "grid.png"
    refuse_existing([*files, sheet] if args.number > 1 else files, args.force)

    import torch

    from ..report.pictures import picture_grid, to_picture
    from ..sampling import sample

    model = model.to(choose_device(args.device))
    batches = [seeds[first : first + args.batch] for first in range(0, args.number, args.batch)]
    images = torch.cat(
        [
            sample(
                model,
                grid=args.grid,
                size=args.size,
                window=args.window,
                temperature=args.temperature,
                top_k=args.top_k,
                top_p=args.top_p,
                seeds=batch,
                progress=sys.stderr.isatty(),
            ).cpu()
            for batch in batches
        ]
    )
    for image, file in zip(images, files, strict=True):
        write_picture(to_picture(image), file)
    if args.number > 1:
        write_picture(picture_grid(images), sheet)
    print(f"{args.number} pictures of {images.shape[2]} x {images.shape[3]} pixels in {folder}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


def _height_x_width(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected height x width such as 16x64, got {text!r}")
    return int(height), int(width)
