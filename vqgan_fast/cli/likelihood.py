"""The likelihood that `vqgan-fast evaluate` tells: of pictures as large as in training."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .held_out import held_out_nll, held_out_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import VQGAN, LatentTransformer


def likelihood(
    args: Namespace, model: LatentTransformer, files: Sequence[Path]
) -> tuple[dict[str, float], int]:
    """Nats per code, and the side of the crops in pixels.

    Args:
        args: of `evaluate`.
        model: both stages, on the device that is to do the work.
        files: the pictures.

    Raises:
        ConfigError, DataError, ValueError: pictures or maps that do not fit.
    """
    if model.cond_stage_model.config["name"] != "sos":
        held_out = held_out_of(
            args.run_folder, model, args.images, args.maps, args.limit, args.size
        )
        _tell_other_grid(model, held_out.size)
        return held_out_nll(held_out, model, args.batch), held_out.size

    if args.maps:
        raise ValueError(f"--maps is for a condition on maps, {args.run_folder} has no condition")

    from ..evaluate import nll_per_code

    size = args.size or trained_size(model)
    check_size(size, model.first_stage_model)
    _tell_other_grid(model, size)
    codes = _codes(model, files, size, args.batch)
    return {"nll": nll_per_code(model, codes, args.batch)}, size


def trained_size(model: LatentTransformer) -> int:
    """The side of the crops that a transformer was trained on; where nobody knows, or they are no
    squares, the resolution of its VQGAN."""
    vqgan = model.first_stage_model
    if model.grid is None or model.grid[0] != model.grid[1]:
        return vqgan.config["resolution"]
    return model.grid[0] * vqgan.downsampling_factor


def check_size(size: int, vqgan: VQGAN) -> None:
    """ValueError if the side of a crop is no whole number of codes."""
    factor = vqgan.downsampling_factor
    if size % factor:
        raise ValueError(
            f"--size must be a multiple of the downsampling factor {factor}, got {size}"
        )


def _tell_other_grid(model: LatentTransformer, size: int) -> None:
    side = size // model.first_stage_model.downsampling_factor
    if model.grid not in (None, (side, side)):
        height, width = model.grid
        print(
            f"nll is that of {side} x {side} codes, crops of {size} x {size} pixels; the "
            f"transformer was trained on {height} x {width} codes",
            file=sys.stderr,
        )


def _codes(model: LatentTransformer, files: Sequence[Path], size: int, batch: int) -> Tensor:
    """Those that the transformer has learned: a quantiser that draws has others when pictures are
    reconstructed, which may be of another size, too."""
    import torch
    from tqdm.auto import tqdm

    from ..data import to_model_range
    from ..evaluate import Pictures

    codes, device = [], model.transformer.head.weight.device
    with tqdm(total=len(files), unit="picture", desc="encoding") as bar:
        for images in Pictures(files, size, batch):
            codes.append(model.encode_to_codes(to_model_range(images, device)))
            bar.update(len(images))
    return torch.cat(codes)
