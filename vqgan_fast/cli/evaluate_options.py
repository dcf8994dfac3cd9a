"""The options of `vqgan-fast evaluate`, and which of them go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from .models import RUN_HELP, add_device
from .outputs import add_force

METRICS = ("psnr", "ssim", "lpips", "rfid", "fid", "is", "nll")
DISTRIBUTION = {"rfid", "fid", "is"}  # what needs whole folders, and the InceptionV3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of either stage")
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, help="a folder of pictures, or a .txt list of them"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        metavar="NAME",
        default=["psnr", "ssim"],
        help=f"of {', '.join(METRICS)} (default: psnr ssim); codebook usage comes with all",
    )
    parser.add_argument(
        "--maps",
        nargs="+",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="of the pictures, for a VQGAN of maps and for nll under a condition on maps; of poses "
        "the JSON file. Of several conditions one for each that is files, in the order of "
        "condition.parts",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side (default: the resolution of the VQGAN; for nll, that of the training crops)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="take the first N pictures only; nll under conditions holds the crops of all of them",
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures at once (default: 16)")
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="FOLDER",
        help="drawn pictures, for fid and is; not counted are the sheets of `sample` among them",
    )
    parser.add_argument(
        "--lpips-weights",
        choices=("pretrained", "random", "auto"),
        default="pretrained",
        help="features of LPIPS; random ones compare runs with each other only",
    )
    parser.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="weights for fid, rfid and is"
    )
    parser.add_argument(
        "--keep-pictures",
        type=Path,
        metavar="FOLDER",
        help="leave real/, reconstructions/ and samples/ there as PNG, to look at or for other "
        "programs; --force replaces those of an earlier call",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    add_device(parser)
    add_force(parser)


def check_options(args: argparse.Namespace, metrics: set[str]) -> None:
    """ValueError if a number is too small, or a folder of samples is missing or of no use."""
    for name in ("size", "limit", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if metrics & {"fid", "is"} and args.samples is None:
        raise ValueError("--metrics fid and is need --samples, a folder of drawn pictures")
    if args.samples is not None and not metrics & {"fid", "is"}:
        raise ValueError("--samples is for --metrics fid and is, none of which was asked for")
