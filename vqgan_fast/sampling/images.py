"""Sampling images: codes from the transformer, decoded by the first stage."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..models.latent_transformer import LatentTransformer
from ..quantizers.checks import check_integer
from .inference import evaluating, ordinary_copy
from .sampler import sample_codes
from .seeds import Seeds, count_seeds
from .windows import height_and_width


def sample(
    model: LatentTransformer,
    cond: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    *,
    size: tuple[int, int] | None = None,
    num_images: int | None = None,
    window: int | None = None,
    seeds: Seeds | None = None,
    **options: Any,
) -> Tensor:
    """Sample images.

    The codes are :func:`sample_codes` of the model's transformer, restricted to the first stage's
    codebook; each image is decoded on its own, so that it does not depend on its batch.

    Args:
        model: transformer, first stage and condition.
        cond: the condition's tokens, as for :func:`sample_codes`; None asks the model's own
            condition for them, as works without any input (an sos token).
        grid: (H, W) in codes; by default window x window.
        size: (height, width) in pixels, multiples of the downsampling factor f, instead of `grid`.
        num_images: how many, where `cond` is None; by default one for each seed, or 1.
        window: side of the window, in codes; by default the largest that the transformer has
            positions for, which is the side of the square grids that it was trained on.
        seeds: one 64-bit integer for each image; None draws them from torch's global CPU generator.
        **options: schedule, order, temperature, top_k, top_p, greedy, callback and progress, as for
            :func:`sample_codes`.

    Returns:
        (B, 3, f H, f W) images in [-1, 1] on the model's device.

    Raises:
        ValueError: an argument is out of range or does not fit the others; the message names it.
    """
    first_stage = model.first_stage_model
    factor = first_stage.downsampling_factor
    if size is not None:
        grid = _grid_of_size(size, grid, factor)
    if cond is None:
        if num_images is None:
            num_images = 1 if seeds is None else count_seeds(seeds)
        check_integer("num_images", num_images)
        cond = model.cond_stage_model(num_images, model.transformer.pos_emb.device)
    elif num_images is not None:
        raise ValueError(f"num_images must be None where cond is given, got {num_images}")

    if window is None:
        window = _largest_window(model.transformer.block_size, cond)
    codes = sample_codes(
        model.transformer,
        cond,
        (window, window) if grid is None else grid,
        window=window,
        num_codes=first_stage.quantize.codebook_size,
        seeds=seeds,
        **options,
    )
    with torch.inference_mode(), evaluating(first_stage):
        images = torch.cat([first_stage.decode_indices(image) for image in codes.split(1)])
        images = images.clamp(-1, 1)
    return ordinary_copy(images)


def _largest_window(block_size: int, cond: Tensor) -> int:
    """The largest w with w^2 + T - 1 <= block_size, where T = w^2 for a grid of conditions."""
    room = block_size + 1
    return math.isqrt(room // 2 if cond.ndim == 3 else max(room - cond.shape[-1], 1))


def _grid_of_size(
    size: tuple[int, int], grid: tuple[int, int] | None, factor: int
) -> tuple[int, int]:
    if grid is not None:
        raise ValueError(f"size must be None where grid is given, got {size}")
    height, width = height_and_width("size", size)
    if min(height, width) < 1 or height % factor or width % factor:
        raise ValueError(
            f"size must be (height, width) in pixels, positive multiples of the downsampling "
            f"factor {factor}, got {size}"
        )
    return height // factor, width // factor
