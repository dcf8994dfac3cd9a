"""Change a picture towards what a score asks for, through the codes of a trained VQGAN.

    python examples/guided.py runs/demo/stage1 photo.jpg --colour 0.9 0.5 0.2
    python examples/guided.py runs/demo/stage1 photo.jpg --structure other.jpg
    python examples/guided.py runs/big photo.jpg --clip clip/ --prompt "a sea" --prompt "man:-0.3"
    python examples/guided.py runs/big random --size 256 --clip clip/ --prompt "a lighthouse"

--colour and --structure need no network and no further weights. They show how a score is written:
a function of pictures (N, 3, H, W) in [-1, 1] that returns (N,), higher is better. --clip takes a
folder with a CLIP model of the transformers package (docs/guidance.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vqgan_fast.cli.models import choose_device, load_vqgan
from vqgan_fast.data import read_image, to_model_range
from vqgan_fast.guidance import ClipScore, ClipUnavailableError, RandomCrops, guide
from vqgan_fast.report.pictures import comparison, to_picture

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def colour_score(target: tuple[float, float, float]) -> Callable[[Tensor], Tensor]:
    """Minus the squared distance of a picture's mean colour from `target`, in [0, 1] each."""
    wanted = torch.tensor(target) * 2 - 1
    return lambda images: -(images.mean((2, 3)) - wanted.to(images)).square().sum(1)


def structure_score(picture: Tensor) -> Callable[[Tensor], Tensor]:
    """Minus the mean squared difference of the contrasts of brightness from `picture`'s.

    Contrasts are brightness at a quarter of the size, minus its mean, over its deviation: what is
    lighter than what, whatever the colours.

    Args:
        picture: (1, 3, H, W) of the size of the pictures that are scored.
    """

    def contrasts(images: Tensor) -> Tensor:
        luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        small = F.avg_pool2d(luma, 4)
        return (small - small.mean((2, 3), keepdim=True)) / (small.std((2, 3), keepdim=True) + 1e-3)

    wanted = contrasts(picture)
    return lambda images: -(contrasts(images) - wanted.to(images)).square().mean((1, 2, 3))


def prompt_and_weight(text: str) -> tuple[str, float]:
    """ "a stormy sea:0.5" is a prompt with its weight; without a number the weight is 1."""
    prompt, colon, weight = text.rpartition(":")
    try:
        return (prompt, float(weight)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0


def picture_of(path: Path, size: int) -> Tensor:
    """The centred square of a picture, (1, 3, size, size) in [-1, 1]."""
    picture = read_image(path)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return to_model_range(pixels.view(1, size, size, 3).movedim(-1, 1))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run folder of a VQGAN")
    parser.add_argument("start", help='a picture to start from, or "random": random codes')
    parser.add_argument("--colour", type=float, nargs=3, metavar="0..1", help="a mean colour")
    parser.add_argument(
        "--structure",
        type=Path,
        metavar="PICTURE",
        help="light and dark as in this picture (default with --colour: as in the start)",
    )
    parser.add_argument("--clip", metavar="FOLDER", help="a CLIP model, for --prompt")
    parser.add_argument("--prompt", action="append", default=[], help="text, or text:weight")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument("--steps", type=int, default=200, help="(default: 200)")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="(default: 0.1)")
    parser.add_argument("--through", choices=("latents", "codes"), default="latents")
    parser.add_argument("--crops", type=int, default=16, help="for --prompt (default: 16)")
    parser.add_argument("--ema", type=float, metavar="DECAY", help="average the latents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("guided.png"))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    if bool(args.prompt) != bool(args.clip):
        parser.error("--prompt and --clip go together")
    if not (args.prompt or args.colour or args.structure):
        parser.error("give at least one of --colour, --structure and --prompt")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    device = choose_device(args.device)
    vqgan = load_vqgan(args.run).to(device)
    side = args.size // vqgan.downsampling_factor
    if side < 1:
        sys.exit(
            "--size must be at least the VQGAN's downsampling factor, "
            f"{vqgan.downsampling_factor}, got {args.size}"
        )
    size = side * vqgan.downsampling_factor
    if args.start == "random":
        generator = torch.Generator().manual_seed(args.seed)
        start = torch.randint(vqgan.quantize.codebook_size, (1, side, side), generator=generator)
    else:
        start = picture_of(Path(args.start), size)

    terms: list[tuple[Callable[[Tensor], Tensor], float]] = []
    crops = None
    if args.colour:
        terms.append((colour_score(tuple(args.colour)), 1.0))
    if args.structure:
        terms.append((structure_score(picture_of(args.structure, size)), 1.0))
    elif args.colour and args.start != "random":
        terms.append((structure_score(start), 1.0))
    if args.prompt:
        if args.structure or args.colour:
            sys.exit("--prompt scores crops, which --colour and --structure cannot: choose one")
        for text in args.prompt:
            prompt, weight = prompt_and_weight(text)
            terms.append((ClipScore(prompt, args.clip, device), weight))
        crops = RandomCrops(args.crops, size=terms[0][0].size, noise=0.1)

    found = guide(
        vqgan, terms, start, steps=args.steps, learning_rate=args.learning_rate,
        through=args.through, crops=crops, ema_decay=args.ema, seed=args.seed,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    with torch.no_grad():
        before = vqgan.decode_indices(start.to(device)) if args.start == "random" else start
    args.output.parent.mkdir(parents=True, exist_ok=True)
    to_picture(found.images[0]).save(args.output)
    rows = torch.cat([before.cpu(), found.images.cpu()])
    comparison([("before, and after", rows)]).save(args.output.with_suffix(".before_after.png"))
    print(f"score {float(found.scores[0]):.4f} -> {float(found.scores[-1]):.4f}; {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (ClipUnavailableError, ModuleNotFoundError, OSError, ValueError) as error:
        # They say what is wrong or what to do.
        sys.exit(str(error))
