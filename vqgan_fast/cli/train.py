"""`vqgan-fast train`: either stage, from a YAML file."""

from __future__ import annotations

import argparse
from typing import Any

SUMMARY = "train stage 1 (a VQGAN) or stage 2 (a transformer) from a YAML file"
DESCRIPTION = """\
Trains what CONFIG says: with `stage: vqgan` an autoencoder between pictures and codes, with
`stage: transformer` the distribution of its codes. Any setting of the file can be changed on the
command line as key=value; --keys prints them all. The run folder (run_dir in CONFIG) gets the
configuration, metrics.jsonl, TensorBoard logs, picture grids, checkpoints and the trained model.

Ctrl-C ends a run with a checkpoint; --resume continues it to the same losses. A run folder that
holds something is never overwritten: give another run_dir, or --resume.
"""
EXAMPLES = """\
  vqgan-fast train vqgan.yaml data.train=photos/ run_dir=runs/photos
  vqgan-fast train vqgan.yaml data.train=photos/ run_dir=runs/photos --resume
  vqgan-fast train transformer.yaml first_stage=runs/photos data.train=photos/ run_dir=runs/gpt
  torchrun --nproc-per-node 2 -m vqgan_fast train vqgan.yaml data.train=photos/
  tensorboard --logdir runs
"""


class PrintKeys(argparse.Action):
    """In the place of everything else, as --help is."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, stage: Any, *rest: Any) -> None:
        from ..train.config_keys import commented_defaults

        print(commented_defaults(stage), end="")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="YAML file: a path, or the name of one of the package's such as vqgan.yaml and "
        "transformer.yaml; --keys prints what it may hold",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace those of CONFIG, such as optim.steps=5000",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in run_dir from its last checkpoint"
    )
    parser.add_argument(
        "--keys",
        action=PrintKeys,
        choices=("vqgan", "transformer"),
        help="print every key of a stage with its default and what it does, as YAML, and end",
    )


def run(args: argparse.Namespace) -> None:
    from ..train import load_config, train

    overrides = [*args.overrides, *(["resume=true"] if args.resume else [])]
    train(load_config(args.config, overrides))
