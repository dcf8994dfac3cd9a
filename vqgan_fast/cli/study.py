"""`vqgan-fast study`: the paper's comparisons, trained, measured and written up."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "the paper's comparisons: PixelSNAIL, factors, losses, levels, orders of codes"
DESCRIPTION = """\
Trains the models that the paper compares, measures them on held-out pictures, and writes
study.json, study.md and plots: a transformer against PixelSNAIL on the same codes at equal weights,
after equal steps and equal time; f1 (colours by k-means), f2, f8 and f16 at the same grid of codes;
the loss of VQ-VAE against VQGAN's; one level of codes against two; six orders of the codes.
--config toy takes some 45 minutes on two CPU cores. What is finished is kept: after Ctrl-C the same
command goes on.

--config paper has the paper's sizes. --write-only leaves a YAML file for each run in OUTPUT/configs
and prints the commands that train them with torchrun, first stages first; when they have run, the
study without --write-only measures. --write-only needs crops_per_picture: null, as paper has it.
"""
EXAMPLES = """\
  vqgan-fast study
  vqgan-fast study --data holiday/ --output runs/study_holiday
  vqgan-fast study --config paper --data train/ --validation val/ --output runs/paper --write-only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default="toy", help="toy, paper, or a YAML file of your own (default: toy)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/study"), help="(default: runs/study)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="your pictures, or a .txt list of them (default: the photographs of scikit-image)",
    )
    parser.add_argument(
        "--validation",
        type=Path,
        metavar="FOLDER",
        help="held-out pictures (default: the regions of --data that --config holds out; toy: the "
        "right half of each picture; paper holds out none and needs this)",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page there too, such as docs/study.md"
    )
    parser.add_argument(
        "--write-only", action="store_true", help="write the configurations, print the commands"
    )


def run(args: argparse.Namespace) -> None:
    if args.validation is not None and args.data is None:
        raise ValueError("--validation needs --data, the pictures to train on")
    from ..study.run import prepare, run_study, write_configs

    if args.write_only:
        plan = prepare(args.config, args.output, args.data, args.validation, write_only=True)
        print("\n".join(write_configs(plan)))
        return
    results = run_study(
        args.config, args.output, data=args.data, validation=args.validation, page=args.page
    )
    for name, prior in results["priors"].items():
        print(f"{name:<20} {prior['nll']:.3f} nats per code, {prior['parameters']:,} weights")
    print(f"everything is in {args.output}; read {args.page or args.output / 'study.md'}")
