"""`vqgan-fast tokenize`: a folder of pictures as codes, for stage 2 to train from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .models import RUN_HELP, add_device, choose_device, load_vqgan_of_pictures
from .outputs import add_force, check_writable, refuse_existing

if TYPE_CHECKING:
    from ..train.distributed import Ranks

WAIT_MINUTES = 7 * 24 * 60

SUMMARY = "write the codes of pictures to safetensors files that stage 2 trains from"
DESCRIPTION = """\
Encodes crops of pictures to codes once, so that stage 2 need not do so at every step. With
--crops 1 each picture gives the crop in its middle, with more of them each gives that many random
crops.

An output that ends in .safetensors is one file. Any other is a folder of such files, for many
pictures: torchrun encodes them in several processes, and the same command goes on where one was
killed. Stage 2 reads either with data.codes=OUTPUT, and refuses codes of another VQGAN.
"""
EXAMPLES = """\
  vqgan-fast tokenize runs/photos photos/ --output codes.safetensors
  vqgan-fast tokenize runs/photos photos/ --crops 20 --flip --output codes.safetensors
  torchrun --nproc-per-node 8 -m vqgan_fast tokenize runs/photos 'p-{000..127}.tar' --output codes/
  vqgan-fast train transformer.yaml first_stage=runs/photos data.codes=codes/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of either stage")
    parser.add_argument(
        "images",
        metavar="IMAGES",
        type=Path,
        help="a folder of pictures, a .txt list of them, or a pattern of tar shards",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the .safetensors file, or the folder of them"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of the crops (default: the resolution of the VQGAN)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="length of the shorter side before cropping; 0 keeps it (default: --size)",
    )
    parser.add_argument(
        "--crops", type=int, default=1, metavar="N", help="crops of each picture (default: 1)"
    )
    parser.add_argument("--flip", action="store_true", help="mirror half of the crops")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of random crops and flips (default: 0)"
    )
    parser.add_argument("--batch", type=int, default=16, help="crops encoded at once (default: 16)")
    parser.add_argument(
        "--per-file",
        type=int,
        default=16384,
        metavar="N",
        help="crops in each file of a folder; a killed process loses less (default: 16384)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read pictures (default: 0)"
    )
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    from ..train.distributed import Ranks, join_ranks
    from ..train.rank_environment import rank_environment

    _check(args)
    if rank_environment().world_size == 1:
        _tokenize(args, Ranks(0, 1, choose_device(args.device)))
        return
    if args.output.suffix == ".safetensors":
        raise ValueError(f"--output must be a folder for several processes, got {args.output}")
    # A rank that is done waits for the others, which may have a whole file more to encode; those
    # of one that died are ended by torchrun.
    with join_ranks(args.device, timeout_minutes=WAIT_MINUTES) as ranks:
        _tokenize(args, ranks)


def _check(args: argparse.Namespace) -> None:
    for name, least in (("crops", 1), ("batch", 1), ("per_file", 1), ("workers", 0)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be at least {least}, got {getattr(args, name)}")
    if args.resize is not None and args.resize < 0:
        raise ValueError(f"--resize must be 0 or more, got {args.resize}")
    if args.output.suffix not in ("", ".safetensors"):
        raise ValueError(f"--output must end in .safetensors or be a folder, got {args.output}")
    if args.output.suffix == ".safetensors":
        refuse_existing([args.output], args.force)
    elif args.force:
        raise ValueError("--force is for a file; a folder is gone on with, or removed by hand")
    else:
        check_writable(args.output)


def _tokenize(args: argparse.Namespace, ranks: Ranks) -> None:
    from tqdm.auto import tqdm

    from ..data import (
        ImageStream,
        Place,
        open_pictures,
        tokenize_images,
        write_code_folder,
        write_codes,
    )

    instead = "stage 2 encodes the maps of its conditions itself"
    model = load_vqgan_of_pictures(args.run_folder, instead).to(ranks.device)
    size = model.config["resolution"] if args.size is None else args.size
    factor = model.downsampling_factor
    if size < 1 or size % factor:
        raise ValueError(
            f"--size must be a multiple of the downsampling factor {factor}, got {size}"
        )
    resize = size if args.resize is None else args.resize
    stream = ImageStream(
        open_pictures(args.images),
        size=size,
        resize=resize or None,
        crop="center" if args.crops == 1 else "random",
        flip=args.flip,
        seed=args.seed,
        shuffle=False,
    )
    with tqdm(unit="crop", desc="encoding", disable=not ranks.is_main) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        settings = {
            "crops_per_image": args.crops, "batch_size": args.batch, "num_workers": args.workers,
            "progress": show,
        }  # fmt: skip
        if args.output.suffix:
            tokens, skipped = tokenize_images(model, stream, **settings)
            write_codes(args.output, tokens, model.quantize.codebook)
            rows = len(tokens)
        else:
            place = Place(ranks.rank, ranks.world_size, ranks.wait)
            done = write_code_folder(
                args.output, model, stream, crops_per_file=args.per_file, place=place,
                say=lambda text: tqdm.write(text, file=sys.stderr), **settings,
            )  # fmt: skip
            rows, skipped = done.rows, done.skipped
    if ranks.is_main:
        for name in skipped:
            print(f"skipped, cannot be read: {name}", file=sys.stderr)
        side = size // factor
        print(f"{rows} crops of {side} x {side} codes in {args.output}; {len(skipped)} skipped")
