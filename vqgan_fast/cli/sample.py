"""`vqgan-fast sample`: new pictures from a trained transformer."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .completion import known_codes
from .condition_input import Given, Turn, given_condition, held_out_condition
from .models import RUN_HELP, add_device, choose_device, load_transformer
from .outputs import add_force
from .sample_files import SHOWN, SampleFiles, check_memory, write_partial, write_pictures
from .sample_options import add_sampling_options, not_negative, positive, sampling_options

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import LatentTransformer
    from ..sampling import Best

SUMMARY = "sample new pictures, as large as the training crops or larger"
DESCRIPTION = """\
Draws pictures from a trained transformer. Every picture has a seed of its own, so that it comes
out the same whatever else is drawn with it: --seed 10 --number 3 gives the pictures of seeds 10, 11
and 12. Of N conditions, files or --held-out, the picture of seed S has the one with the number S
modulo N, counted from 0; --best-of takes the first. A grid larger than the training crop is drawn
by the exact sliding window unless --schedule says otherwise: the transformer always sees a
neighbourhood as large as its training crop. Ctrl-C leaves what was drawn.

Each picture is written as soon as it is drawn. With --skip-existing and the same options a large
set that was ended goes on where it was. grid.png shows the first 64 pictures of a call, and
page.png those with their conditions; both are drawn anew by each call.
"""
EXAMPLES = """\
  vqgan-fast sample runs/gpt --number 16
  vqgan-fast sample runs/gpt --grid 16x64 --top-k 100 --temperature 0.9 --seed 7
  vqgan-fast sample runs/gpt --size 64x256 --output wide/
  vqgan-fast sample runs/gpt --grid 64x64 --schedule block --weights bfloat16 --tile 32
  vqgan-fast sample runs/gpt --number 50000 --batch 64 --output drawn/ --skip-existing
  vqgan-fast sample runs/gpt --number 4 --best-of 64
  vqgan-fast sample runs/classes --cond 281 --acceptance-rate 0.05 --classifier resnet101 r101.pth
  vqgan-fast sample runs/classes --cond 281 --uncond 1000 --guidance 1:4
  vqgan-fast sample runs/gpt --complete photo.png --mask hole.png
  vqgan-fast sample runs/depth --condition depth.png --number 4 --guidance 2
  vqgan-fast sample runs/depth --held-out --number 8
  vqgan-fast sample runs/both --cond owl --condition labels.png --condition depth.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of stage 2")
    parser.add_argument("--number", type=positive, default=4, help="how many pictures (default: 4)")
    parser.add_argument(
        "--seed", type=not_negative, default=0, help="seed of the first picture (default: 0)"
    )
    parser.add_argument(
        "--batch", type=positive, default=16, help="pictures drawn at once (default: 16)"
    )
    add_sampling_options(parser)
    parser.add_argument(
        "--preview",
        type=positive,
        metavar="STEPS",
        help="write the pictures every STEPS steps, grey where nothing is drawn yet",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for seed_*.png (best_*.png with --best-of) and, of several, grid.png "
        "(default: RUN/samples)",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="draw only the pictures that are not there, or not to their end; those that are there "
        "must be of the same options",
    )
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    _settle_candidates(args)
    model = load_transformer(args.run_folder)
    folder = args.output or args.run_folder / "samples"
    files = SampleFiles(
        folder, args.number, first_seed=None if args.best_of else args.seed,
        with_conditions=bool(args.condition or args.held_out),
    )  # fmt: skip
    if args.skip_existing:
        numbers = files.missing()
    else:
        numbers = range(args.number)
        files.refuse_existing(args.force)
    if not numbers:
        print(f"all {args.number} pictures are in {folder} already")
        return
    model = model.to(choose_device(args.device))
    options = _options(model, args)
    given = _given(model, args, options)
    if args.uncond is not None:
        options["uncond"] = given.without(args.uncond)
    if args.best_of:
        images = _best(model, args, given, options, files.pictures)[:SHOWN]
    else:
        images = _drawn(model, args, given, options, numbers, files.pictures)
    shown = [0] * len(images) if args.best_of else numbers[:SHOWN]
    files.write_sheets([*given.rows_of(shown), ("sample", images)])
    size = f"{images.shape[2]} x {images.shape[3]}"
    print(f"{len(numbers)} pictures of {size} pixels in {folder}{files.more(len(numbers))}")


def _options(model: LatentTransformer, args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `sampling.sample`, but for the conditions and the seeds."""
    from ..sampling import pack

    options = sampling_options(args)
    num_codes = model.first_stage_model.quantize.codebook_size
    if args.top_k is not None and args.top_k > num_codes:
        raise ValueError(f"--top-k must be at most the {num_codes} codes, got {args.top_k}")
    options["transformer"] = pack(model.transformer, args.weights)
    options["progress"] = sys.stderr.isatty()
    if args.complete is not None:
        if args.grid or args.size:
            raise ValueError("--complete decides the size: leave --grid and --size out")
        options["known"], options["grid"] = known_codes(
            model.first_stage_model, args.complete, args.mask, args.draw_box, args.keep_box
        )
    if args.uncond is not None and args.guidance == 1:
        raise ValueError("--uncond needs --guidance, a number other than 1")
    for name in ("mask", "draw_box", "keep_box"):
        if getattr(args, name) is not None and args.complete is None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} needs --complete, the picture that it is a part of")
    return options


def _settle_candidates(args: argparse.Namespace) -> None:
    """How many are drawn for the --number that are kept, in `best_of`; None keeps all."""
    if args.acceptance_rate is not None:
        # In decimals, as the share was written: in binary 21 of 0.7 are more than 30.
        args.best_of = math.ceil(args.number / Fraction(str(args.acceptance_rate)))
    if args.best_of is not None and args.preview is not None:
        raise ValueError("--preview is for pictures that are all kept: leave it out here")
    if args.best_of is not None and args.skip_existing:
        raise ValueError("--skip-existing is for pictures that are all kept: leave it out here")
    if args.skip_existing and args.force:
        raise ValueError("--skip-existing and --force contradict each other: leave one out")
    if args.best_of is not None and args.best_of < args.number:
        raise ValueError(f"--best-of must be at least --number {args.number}, got {args.best_of}")
    if args.classifier is None:
        if args.label is not None:
            raise ValueError("--label needs --classifier")
        return
    if args.best_of is None:
        raise ValueError("--classifier chooses among candidates: give --best-of or another rate")
    if args.label is None and (args.cond or "").isdecimal():
        args.label = int(args.cond)
    if args.label is None:
        raise ValueError("--classifier needs --label, the class that it is to be sure of")


def _drawn(
    model: LatentTransformer,
    args: argparse.Namespace,
    given: Given,
    options: dict[str, Any],
    numbers: Sequence[int],
    files: Sequence[Path],
) -> Tensor:
    """Samples and writes the pictures, a batch at a time, and returns the first SHOWN of them."""
    import torch
    from tqdm.auto import tqdm

    shown: list[Tensor] = []
    # A log that is no terminal has lines of batches; a terminal has a bar of codes instead.
    with tqdm(
        total=len(numbers), unit="picture", desc="drawing", mininterval=30, miniters=1,
        disable=options["progress"],
    ) as bar:  # fmt: skip
        for first in range(0, len(numbers), args.batch):
            batch = numbers[first : first + args.batch]
            images = _batch(model, args, given, options, batch, [files[n] for n in batch])
            if first < SHOWN:
                shown.append(images[: SHOWN - first].clone())
            bar.update(len(batch))
    return torch.cat(shown)


def _batch(
    model: LatentTransformer,
    args: argparse.Namespace,
    given: Given,
    options: dict[str, Any],
    numbers: Sequence[int],
    files: Sequence[Path],
) -> Tensor:
    """Samples and writes one batch; an interrupted one as far as it came."""
    from ..sampling import SamplingInterrupted, sample

    seeds = [args.seed + number for number in numbers]
    if args.preview is not None:

        def preview(_done: int, _total: int, images: Tensor) -> None:
            write_pictures(images, files, unfinished=True)

        options["preview"] = preview
        options["preview_every"] = args.preview
    try:
        images = sample(model, given.of(numbers), seeds=seeds, **options).cpu()
    except SamplingInterrupted as interrupted:
        write_partial(interrupted, files)
        raise
    write_pictures(images, files)
    return images


def _best(
    model: LatentTransformer,
    args: argparse.Namespace,
    given: Given,
    options: dict[str, Any],
    files: Sequence[Path],
) -> Tensor:
    from ..sampling import SamplingInterrupted, classifier_score, load_classifier, sample_best

    if given.total > 1 and not args.held_out:
        raise ValueError(
            f"--best-of chooses among candidates of one condition, got {given.total}: give one"
        )
    options = {**options, "progress": True}  # a log, too, has a bar of codes for each batch
    score, meaning = None, "nats per code"
    if args.classifier is not None:
        classifier = load_classifier(*args.classifier).to(model.transformer.head.weight.device)
        score, meaning = classifier_score(classifier, args.label), f"log p(class {args.label})"
    try:
        best = sample_best(
            model, given.of(range(1)), seeds=[args.seed], candidates=args.best_of,
            keep=args.number, score=score, batch=args.batch, **options,
        )  # fmt: skip
    except SamplingInterrupted as interrupted:
        complete = 0
        if interrupted.best is not None:
            complete = _write_best(interrupted.best, files, meaning)
        write_partial(interrupted, files[complete:])
        raise
    _write_best(best, files, meaning)
    return best.images[0]


def _write_best(best: Best, files: Sequence[Path], meaning: str) -> int:
    """Writes what was kept, says why it was, and returns how many pictures it is."""
    number = best.images.shape[1]
    write_pictures(best.images[0], files[:number])
    for file, value, seed in zip(files[:number], best.scores[0], best.seeds[0], strict=True):
        print(f"{file.name}: seed {int(seed) % 2**64}, {float(value):.4f} {meaning}")
    print(f"kept {number} of {best.candidates}: acceptance rate {best.acceptance_rate:.2%}")
    return number


def _given(model: LatentTransformer, args: argparse.Namespace, options: dict[str, Any]) -> Given:
    """The conditions; they decide the grid where nothing else does."""
    grid = options["grid"]
    factor = model.first_stage_model.downsampling_factor
    if options["size"] is not None:
        if any(side % factor for side in options["size"]):
            height, width = options["size"]
            raise ValueError(
                f"--size must be multiples of the downsampling factor {factor}, got "
                f"{height}x{width}"
            )
        grid = tuple(side // factor for side in options["size"])
    if grid is not None:
        at_once = min(args.batch, args.best_of or args.number)
        check_memory(grid, factor, at_once)
    # One seed is one picture: its condition must not depend on where a call begins.
    turn = Turn(0, 1) if args.best_of else Turn(args.seed, args.number)
    if args.held_out:
        if args.cond is not None:
            raise ValueError("--held-out has its own conditions: leave --cond out")
        given = held_out_condition(args.run_folder, model, turn)
    else:
        given = given_condition(model, args.cond, args.condition, grid, turn)
    if given.grid is not None and grid is None:
        options["grid"] = given.grid
    elif given.grid not in (None, tuple(grid or ())):
        raise ValueError(
            f"--held-out conditions are of {given.grid[0]} x {given.grid[1]} codes, the picture is "
            f"to be of {grid[0]} x {grid[1]}"
        )
    return given
