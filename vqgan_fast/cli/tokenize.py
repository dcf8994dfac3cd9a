"""`vqgan-fast tokenize`: a folder of pictures as codes, for stage 2 to train from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .models import RUN_HELP, add_device, choose_device, load_vqgan
from .outputs import add_force, refuse_existing

SUMMARY = "write a folder's codes to a safetensors file that stage 2 trains from"
DESCRIPTION = """\
Encodes crops of pictures to codes once, so that stage 2 need not do so at every step. The file
holds one tensor `tokens` (pictures, height, width) and a fingerprint of the codebook; stage 2 reads
it with data.codes=FILE. With --crops 1 each picture gives the crop in its middle, with more of
them each gives that many random crops.
"""
EXAMPLES = """\
  vqgan-fast tokenize runs/photos photos/ --output codes.safetensors
  vqgan-fast tokenize runs/photos photos/ --crops 20 --flip --output codes.safetensors
  vqgan-fast train transformer.yaml first_stage=runs/photos data.codes=codes.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of either stage")
    parser.add_argument(
        "images", metavar="IMAGES", type=Path, help="a folder of pictures, or a .txt list of them"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the .safetensors file to write"
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
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..data import ImageStream, list_images, tokenize_images, write_codes

    for name in ("crops", "batch"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.output.suffix != ".safetensors":
        raise ValueError(f"--output must end in .safetensors, got {args.output}")
    refuse_existing([args.output], args.force)
    model = load_vqgan(args.run_folder).to(choose_device(args.device))
    size = model.config["resolution"] if args.size is None else args.size
    factor = model.downsampling_factor
    if size < 1 or size % factor:
        raise ValueError(
            f"--size must be a multiple of the downsampling factor {factor}, got {size}"
        )
    resize = size if args.resize is None else args.resize
    stream = ImageStream(
        list_images(args.images),
        size=size,
        resize=resize or None,
        crop="center" if args.crops == 1 else "random",
        flip=args.flip,
        seed=args.seed,
        shuffle=False,
    )
    with tqdm(unit="crop", desc="encoding") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        tokens, skipped = tokenize_images(
            model, stream, crops_per_image=args.crops, batch_size=args.batch, progress=show
        )
    write_codes(args.output, tokens, model.quantize.codebook)
    for name in skipped:
        print(f"skipped, cannot be read: {name}", file=sys.stderr)
    count, height, width = tokens.shape
    print(f"{count} crops of {height} x {width} codes in {args.output}; {len(skipped)} skipped")
