"""`vqgan-fast demo`: the whole road on photographs, in minutes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

SUMMARY = "train both stages on real photographs and sample, in eight minutes"
DESCRIPTION = """\
Trains a small VQGAN and a small transformer on the colour photographs that scikit-image ships (no
download), or on your own pictures, and writes a page that shows what they learned:
reconstructions of picture regions that training never saw, loss curves, samples, and one picture
several times wider than the training crop. It needs two CPU cores and keeps to the time that
--minutes gives it, also on a slow machine. Nothing is lost: an earlier demo in the same folder is
moved aside, to OUTPUT.1, OUTPUT.2, ...; a folder that holds anything else is refused.
"""
EXAMPLES = """\
  vqgan-fast demo
  vqgan-fast demo --data holiday/ --minutes 30 --output runs/holiday
  vqgan-fast demo --vqgan loss.perceptual_net=vgg --transformer gpt.n_layer=8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        help="the folder to write (default: runs/demo)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your pictures, or a .txt list of them (default: the photographs of scikit-image)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="time for everything together, in minutes (default: 8)",
    )
    for stage, example in (("vqgan", "optim.steps=500"), ("transformer", "gpt.n_layer=8")):
        parser.add_argument(
            f"--{stage}",
            action="append",
            default=[],
            metavar="key=value",
            help=f"change a setting of the {stage}'s training, such as {example}; may be repeated",
        )


def run(args: argparse.Namespace) -> None:
    started = time.monotonic()  # before torch and the rest are imported, which is part of it
    from ..demo.run import run_demo

    run_demo(
        args.output,
        data=args.data,
        minutes=args.minutes,
        started=started,
        vqgan_overrides=args.vqgan,
        transformer_overrides=args.transformer,
    )
