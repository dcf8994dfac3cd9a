"""`vqgan-fast shard`: a folder of pictures as tar shards."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path

from .outputs import add_force, refuse_existing

SUMMARY = "write a folder's pictures into tar shards that train and tokenize read"
DESCRIPTION = """\
Writes the pictures of a folder, in the order in which training on the folder takes them, into
OUTPUT-000000.tar, OUTPUT-000001.tar, ... of about 256 MiB each, and beside each of them its index.
A file system of a cluster likes a few large files better than millions of small ones. Training on
the shards is training on the folder, to the last bit.
"""
EXAMPLES = """\
  vqgan-fast shard photos/ --output shards/photos
  vqgan-fast shard photos/ --output shards/photos --count 64
  vqgan-fast train vqgan.yaml 'data.shards=shards/photos-{000000..000063}.tar'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, help="a folder of pictures, or a .txt list of them"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="where the names of the shards begin"
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="how many shards; at least as many as there will be ranks (default: by their size)",
    )
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..data.write_shards import plan_shards, shard_paths, write_shards

    plan = plan_shards(args.images, args.count)
    paths = shard_paths(args.output, len(plan))
    refuse_existing(paths, args.force)
    numbered = args.output.parent.glob(f"{glob.escape(args.output.name)}-{6 * '[0-9]'}.tar")
    if more := sorted(set(numbered) - set(paths)):
        raise FileExistsError(
            f"{more[0]} is there, and the last of {len(paths)} shards would be {paths[-1].name}: "
            "remove what is left of a longer set, which a pattern such as "
            f"{args.output.name}-*.tar names as well"
        )
    pictures = sum(map(len, plan))
    with tqdm(total=pictures, unit="picture", desc="writing") as bar:
        write_shards(plan, args.output, bar.update)
    last = f"{len(plan) - 1:06d}"
    print(
        f"{pictures} pictures in {len(plan)} shards; train on them with "
        f"'data.shards={args.output}-{{000000..{last}}}.tar'"
    )
