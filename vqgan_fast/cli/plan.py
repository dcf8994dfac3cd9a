"""`vqgan-fast plan`: what a run needs, before it waits in a queue."""

from __future__ import annotations

import argparse
import json

from ..plan.assumed import LINK_GBYTES, RESERVE_GIB

SUMMARY = "the memory and time that a training run would need, before it is started"
DESCRIPTION = """\
Goes through one step of CONFIG with tensors that have shapes and no memory, on any machine, and
prints what lies on each card at its peak, the largest batch that fits, and, with a rate that was
measured on one card (images_per_second of a short run's metrics.jsonl), how long it takes. Neither
the pictures nor the first stage need be there; first_stage may be a stage-1 YAML file. With
data.codes the grid is that of the codes, or of data.size as long as they are not there.

On the CPU it is within 15 % of the measured peak (docs/clusters.md has the figures). What CUDA
needs beside the tensors, --reserve, is assumed.
"""
EXAMPLES = """\
  vqgan-fast plan vqgan.yaml --gpus 8 --memory 80
  vqgan-fast plan vqgan.yaml --gpus 8 --memory 80 --compare
  vqgan-fast plan vqgan.yaml data.batch_size=4 --gpus 16 --memory 24 --rate 30
  vqgan-fast plan transformer.yaml first_stage=vqgan.yaml --gpus 8 --memory 80 --sharded --json
"""
PARTS = {
    "weights": "weights that are trained",
    "fixed": "weights that are not, and buffers",
    "average": "averaged weights",
    "optimizer": "Adam's moments",
    "gradients": "gradients",
    "exchange": "for the exchange between cards",
    "working": "activations, on top of gradients",
    "reserve": "CUDA and fragmentation (assumed)",
}
# Beyond what there is by far; within them no figure of a plan becomes infinite.
BOUNDS = {
    "gpus": (1, 10**6),
    "memory": (1e-3, 10**6),
    "rate": (1e-6, 10**9),
    "link": (1e-6, 10**6),
    "reserve": (0, 10**6),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="as of `train`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as of `train`")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="cards, of all machines")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of one card")
    parser.add_argument(
        "--sharded", action="store_true", help="weights and moments in parts over the cards (FSDP2)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="bf16 and activation checkpointing beside it"
    )
    parser.add_argument("--rate", type=float, metavar="R", help="samples a second of one card")
    parser.add_argument(
        "--link",
        type=float,
        default=LINK_GBYTES,
        metavar="GB/S",
        help="what one card can send to the next (default: %(default)g, a link of 100 Gbit/s)",
    )
    parser.add_argument(
        "--reserve",
        type=float,
        default=RESERVE_GIB,
        metavar="GIB",
        help="of CUDA (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    for name, (least, most) in BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:  # also where it is NaN
            raise ValueError(f"--{name} must be between {least} and {most}, got {value}")

    from ..plan.report import make_plan, render

    plan = make_plan(
        args.config, args.overrides, gpus=args.gpus, memory_gib=args.memory, sharded=args.sharded,
        compare=args.compare, rate=args.rate, link_gbytes=args.link, reserve_gib=args.reserve,
    )  # fmt: skip
    print(json.dumps(plan, indent=2) if args.json else render(plan, PARTS))
