"""`vqgan-fast sample`: new pictures from a trained transformer."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .completion import known_codes
from .condition_input import Given, given_condition, held_out_condition
from .models import RUN_HELP, add_device, choose_device, load_transformer
from .outputs import add_force, refuse_existing
from .sample_options import add_sampling_options, positive, sampling_options

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import LatentTransformer
    from ..sampling import Best

SUMMARY = "sample new pictures, as large as the training crops or larger"
DESCRIPTION = """\
Draws pictures from a trained transformer. Every picture has a seed of its own, so that it comes
out the same whatever else is drawn with it: --seed 10 --number 3 gives the pictures of seeds 10, 11
and 12. A grid larger than the training crop is drawn by the exact sliding window unless --schedule
says otherwise: the transformer always sees a neighbourhood as large as its training crop. Ctrl-C
leaves what was drawn.
"""
EXAMPLES = """\
  vqgan-fast sample runs/gpt --number 16
  vqgan-fast sample runs/gpt --grid 16x64 --top-k 100 --temperature 0.9 --seed 7
  vqgan-fast sample runs/gpt --size 64x256 --output wide/
  vqgan-fast sample runs/gpt --grid 64x64 --schedule block --weights bfloat16 --tile 32
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
        "--seed", type=int, default=0, help="seed of the first picture (default: 0)"
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
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    _settle_candidates(args)
    model = load_transformer(args.run_folder)
    folder = args.output or args.run_folder / "samples"
    seeds = range(args.seed, args.seed + args.number)
    names = [f"seed_{seed:06d}.png" for seed in seeds]
    if args.best_of:
        names = [f"best_{rank:03d}.png" for rank in range(1, args.number + 1)]
    files = [folder / name for name in names]
    sheet = folder / "grid.png" if args.number > 1 else None
    page = folder / "page.png" if args.condition or args.held_out else None
    refuse_existing([path for path in (*files, sheet, page) if path], args.force)

    import torch

    from ..report.pictures import comparison, picture_grid, write_picture

    model = model.to(choose_device(args.device))
    options = _options(model, args)
    given = _given(model, args, options)
    if args.best_of:
        images = _best(model, args, given, options, files)
    else:
        images = torch.cat(list(_batches(model, args, given, options, seeds, files)))
    if page:
        shown = [0] * args.number if args.best_of else range(args.number)
        rows = [*given.rows_of(shown), ("sample", images)]
        write_picture(comparison(rows), page)
    if sheet:
        write_picture(picture_grid(images), sheet)
    print(f"{args.number} pictures of {images.shape[2]} x {images.shape[3]} pixels in {folder}")


def _options(model: LatentTransformer, args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `sampling.sample`, but for the condition and the seeds."""
    import torch

    from ..sampling import pack

    options = sampling_options(args)
    options["transformer"] = pack(model.transformer, args.weights)
    options["progress"] = sys.stderr.isatty()
    if args.uncond is not None:
        device = model.transformer.head.weight.device
        options["uncond"] = torch.tensor([[args.uncond]], device=device)
    if args.complete is not None:
        if args.grid or args.size:
            raise ValueError("--complete decides the size: leave --grid and --size out")
        options["known"], options["grid"] = known_codes(
            model.first_stage_model, args.complete, args.mask, args.draw_box, args.keep_box
        )
    for name in ("mask", "draw_box", "keep_box"):
        if getattr(args, name) is not None and args.complete is None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} needs --complete, the picture that it is a part of")
    return options


def _settle_candidates(args: argparse.Namespace) -> None:
    """How many are drawn for the --number that are kept, in `best_of`; None keeps all."""
    if args.acceptance_rate is not None:
        args.best_of = math.ceil(args.number / args.acceptance_rate)
    if args.best_of is not None and args.preview is not None:
        raise ValueError("--preview is for pictures that are all kept: leave it out here")
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


def _batches(
    model: LatentTransformer,
    args: argparse.Namespace,
    given: Given,
    options: dict[str, Any],
    seeds: range,
    files: Sequence[Path],
) -> Iterable[Tensor]:
    """Samples and writes the pictures, a batch at a time; an interrupted one as far as it came."""
    from ..sampling import SamplingInterrupted, sample

    for first in range(0, args.number, args.batch):
        batch, targets = (part[first : first + args.batch] for part in (seeds, files))
        cond = given.of(range(first, first + len(batch)))
        if args.preview is not None:
            options["preview"] = lambda _done, _total, images, to=targets: _write(images, to)
            options["preview_every"] = args.preview
        try:
            images = sample(model, cond, seeds=batch, **options).cpu()
        except SamplingInterrupted as interrupted:
            _write_partial(interrupted, targets)
            raise
        _write(images, targets)
        yield images


def _best(
    model: LatentTransformer,
    args: argparse.Namespace,
    given: Given,
    options: dict[str, Any],
    files: Sequence[Path],
) -> Tensor:
    from ..sampling import SamplingInterrupted, classifier_score, load_classifier, sample_best

    if given.number > 1 and not args.held_out:
        raise ValueError(
            f"--best-of chooses among candidates of one condition, got {given.number}: give one"
        )
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
        _write_partial(interrupted, files[complete:])
        raise
    _write_best(best, files, meaning)
    return best.images[0]


def _write_best(best: Best, files: Sequence[Path], meaning: str) -> int:
    """Writes what was kept, says why it was, and returns how many pictures it is."""
    number = best.images.shape[1]
    _write(best.images[0], files[:number])
    for file, value, seed in zip(files[:number], best.scores[0], best.seeds[0], strict=True):
        print(f"{file.name}: seed {int(seed)}, {float(value):.4f} {meaning}")
    print(f"kept {number} of {best.candidates}: acceptance rate {best.acceptance_rate:.2%}")
    return number


def _given(model: LatentTransformer, args: argparse.Namespace, options: dict[str, Any]) -> Given:
    """The conditions; they decide the grid where nothing else does."""
    grid = options["grid"]
    if options["size"] is not None:
        factor = model.first_stage_model.downsampling_factor
        grid = tuple(side // factor for side in options["size"])
    if args.held_out:
        if args.cond is not None:
            raise ValueError("--held-out has its own conditions: leave --cond out")
        given = held_out_condition(args.run_folder, model)
    else:
        given = given_condition(model, args.cond, args.condition, grid)
    if given.grid is not None and grid is None:
        options["grid"] = given.grid
    elif given.grid not in (None, tuple(grid or ())):
        raise ValueError(
            f"--held-out conditions are of {given.grid[0]} x {given.grid[1]} codes, the picture is "
            f"to be of {grid[0]} x {grid[1]}"
        )
    return given


def _write(images: Tensor, files: Sequence[Path]) -> None:
    from ..report.pictures import to_picture, write_picture

    for image, file in zip(images, files, strict=True):
        write_picture(to_picture(image), file)


def _write_partial(interrupted: Any, files: Sequence[Path]) -> None:
    """Writes the pictures that were being drawn, as many as there are files for."""
    if interrupted.images is None or not files:
        return
    files = files[: len(interrupted.images)]
    _write(interrupted.images[: len(files)], files)
    print(
        f"\n{interrupted.done} of {interrupted.total} codes are drawn; the pictures as far as they "
        f"came: {', '.join(str(file) for file in files[:3])}{' ...' if len(files) > 3 else ''}",
        file=sys.stderr,
    )
