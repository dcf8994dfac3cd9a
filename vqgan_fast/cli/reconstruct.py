"""`vqgan-fast reconstruct`: pictures through the codes and back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .models import RUN_HELP, add_device, choose_device, load_vqgan_of_pictures
from .outputs import add_force, refuse_existing

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import VQGAN

SUMMARY = "encode pictures to codes and decode them: what does the VQGAN keep?"
DESCRIPTION = """\
Encodes pictures of any size, decodes their codes, and writes original and reconstruction side by
side. Prints the PSNR of each (in dB; 20 is rough, 30 is good) and that of all pixels together.
A picture whose sides are no multiples of the downsampling factor is continued at its right and
bottom edge, and cut back afterwards.
"""
EXAMPLES = """\
  vqgan-fast reconstruct runs/photos cat.jpg dog.png
  vqgan-fast reconstruct runs/photos holiday/ --resize 256 --output compared/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help=RUN_HELP + ", of either stage")
    parser.add_argument(
        "images", metavar="IMAGES", nargs="+", type=Path, help="pictures, or folders of them"
    )
    parser.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="length of the shorter side before encoding (default: as it is; memory grows with it)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for NAME_reconstruction.png (default: RUN/reconstructions)",
    )
    add_device(parser)
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from ..data import UnreadableImageError, read_image, to_model_range
    from ..data.crops import resize_shorter_side
    from ..data.naming import naming
    from ..data.stream import channels_first
    from ..report.measures import mean_squared_error, psnr
    from ..report.pictures import beside, to_picture, write_picture

    if args.resize is not None and args.resize < 1:
        raise ValueError(f"--resize must be at least 1 pixel, got {args.resize}")
    instead = "`vqgan-fast evaluate --maps` tells how well it reconstructs maps"
    model = load_vqgan_of_pictures(args.run_folder, instead).to(choose_device(args.device))
    sources = _pictures(args.images)
    folder = args.output or args.run_folder / "reconstructions"
    targets = _targets(sources, folder)
    refuse_existing(targets, args.force)

    errors, sizes, skipped = [], [], 0
    for source, target in zip(sources, targets, strict=True):
        try:
            picture = resize_shorter_side(read_image(source), args.resize, source)
        except UnreadableImageError as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped += 1
            continue
        image = channels_first(np.asarray(picture))[None]
        x = to_model_range(image, next(model.parameters()).device)
        x_hat = reconstruct(model, x)
        errors.append(mean_squared_error(x, x_hat))
        sizes.append(x.numel())
        with naming(target):
            write_picture(beside([picture, to_picture(x_hat[0])]), target)
        print(f"{psnr(errors[-1]):6.2f} dB  {picture.width} x {picture.height}  {target}")
    if not errors:
        raise ValueError(f"none of the {len(sources)} pictures can be read")
    together = sum(e * n for e, n in zip(errors, sizes, strict=True)) / sum(sizes)
    print(f"{psnr(together):6.2f} dB  all pixels of {len(errors)} pictures", end="")
    print(f"; {skipped} skipped" if skipped else "")


def reconstruct(model: VQGAN, x: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] of any size through the codes and back."""
    import torch
    import torch.nn.functional as F

    height, width = x.shape[2:]
    factor = model.downsampling_factor
    with torch.inference_mode():
        padded = F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")
        return model(padded)[0][..., :height, :width]


def _pictures(given: Sequence[Path]) -> list[Path]:
    from ..data import list_images

    sources = []
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"there is no picture or folder {path}")
        sources += list_images(path) if path.is_dir() else [path]
    return sources


def _targets(sources: Sequence[Path], folder: Path) -> list[Path]:
    """One file name for each source; equal names from different folders are numbered."""
    seen: dict[str, int] = {}
    targets = []
    for source in sources:
        number = seen[source.stem] = seen.get(source.stem, 0) + 1
        name = source.stem if number == 1 else f"{source.stem}_{number}"
        targets.append(folder / f"{name}_reconstruction.png")
    return targets
