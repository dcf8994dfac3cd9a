"""Sampling images: codes from the transformer, decoded by the first stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models import VQGAN, ColourCodes, LatentTransformer, PixelSNAIL, WindowGPT
from ..models.conditions import SOSCondition, Tokens
from ..models.evaluating import evaluating
from ..quantizers.checks import check_integer
from .board import UNKNOWN
from .draw import Guidance, is_guided
from .inputs import check_callback, check_model, condition_parts
from .interrupted import SamplingInterrupted
from .packed import Packed
from .sampler import Callback, sample_codes
from .seeds import Seeds, count_seeds
from .tiles import decode_tiled
from .windows import height_and_width

Preview = Callable[[int, int, Tensor], object]


@torch.compiler.disable
def sample(
    model: LatentTransformer,
    cond: Tokens | None = None,
    grid: tuple[int, int] | None = None,
    *,
    size: tuple[int, int] | None = None,
    num_images: int | None = None,
    window: int | None = None,
    seeds: Seeds | None = None,
    transformer: Packed | None = None,
    tile: int | None = None,
    preview: Preview | None = None,
    preview_every: int = 64,
    return_codes: bool = False,
    schedule: str | None = None,
    order: str = "wavefront",
    stride: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    greedy: bool = False,
    guidance: Guidance = 1.0,
    uncond: Tokens | None = None,
    return_logprobs: bool = False,
    known: Tensor | None = None,
    keep: Tensor | None = None,
    weights: str | None = None,
    max_cache_bytes: int = 2**32,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Sample images.

    The codes are :func:`sample_codes` of the model's transformer, restricted to the first stage's
    codebook; each image is decoded on its own, so that it does not depend on its batch.

    Args:
        model: transformer, first stage and condition.
        cond: the condition's tokens, as for :func:`sample_codes`; None asks the model's own
            condition for them, as works without any input (an sos token).
        grid: (H, W) in codes; by default window x window, where that is given, else the grids that
            the transformer was trained on, see :func:`default_grid`.
        size: (height, width) in pixels, multiples of the downsampling factor f, instead of `grid`.
        num_images: how many, where `cond` is None; by default one for each seed, or 1.
        window: side of the window, in codes; by default the largest that the transformer has
            positions for, which is the side of the square grids that it was trained on. Others than
            a GPT have none.
        seeds: one 64-bit integer for each image; None draws them from torch's global CPU generator.
        transformer: what :func:`pack` made of the model's transformer, for many calls.
        tile: decode grids larger than this, >= 2, in tiles, see :func:`decode_tiled`; None decodes
            them whole.
        preview: called as preview(done, total, images) with the images so far, (B, 3, f H, f W) in
            [-1, 1], grey where nothing is drawn yet.
        preview_every: how many steps from one preview to the next.
        return_codes: return the codes (B, H, W) behind the images.
        schedule, order, stride, temperature, top_k, top_p, min_p, greedy, return_logprobs, known,
            keep, weights, max_cache_bytes, callback, progress: as for :func:`sample_codes`.
        guidance, uncond: as for `sample_codes`; a guidance other than 1 without `uncond` takes the
            model's own dropped condition, of models trained with some.

    Returns:
        (B, 3, f H, f W) images in [-1, 1] on the model's device; with return_codes or
        return_logprobs a tuple, the codes and then the log-probabilities behind the images.

    Raises:
        TypeError: model is something else, such as a VQGAN or a folder.
        ValueError: an argument is out of range or does not fit the others; the message names it.
        SamplingInterrupted: Ctrl-C; `images` holds what was drawn, grey where nothing was, or what
            was decoded, grey the pictures that were not.
    """
    check_model(model)
    first_stage = model.first_stage_model
    factor = first_stage.downsampling_factor
    if size is not None:
        grid = _grid_of_size(size, grid, factor)
    if cond is None:
        if num_images is None:
            num_images = 1 if seeds is None else count_seeds(seeds)
            if num_images == 0:
                raise ValueError(
                    "seeds must hold at least one integer where cond is None, got none"
                )
        check_integer("num_images", num_images)
        cond = model.cond_stage_model(num_images, model.transformer.head.weight.device)
    elif num_images is not None:
        raise ValueError(f"num_images must be None where cond is given, got {num_images}")
    parts = condition_parts("cond", cond)
    if is_guided(guidance) and uncond is None:
        if isinstance(model.cond_stage_model, SOSCondition):
            raise ValueError(
                "guidance must be 1 for a model that is unconditional: there is no condition to "
                "guide by"
            )
        if model.null_token is not None:
            uncond = model.dropped(cond)
    if window is None:
        trained = default_grid(model, parts)
        grid, window = trained if grid is None else grid, trained[0]
    elif grid is None:
        grid = (window, window)
    if tile is not None:
        check_integer("tile", tile, minimum=2)
    check_callback("preview", preview)
    if preview is not None:
        callback = _previews(first_stage, tile, preview, preview_every, callback)
    try:
        result = sample_codes(
            model.transformer if transformer is None else transformer,
            cond,
            grid,
            window=window,
            schedule=schedule,
            order=order,
            stride=stride,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
            guidance=guidance,
            uncond=uncond,
            return_logprobs=return_logprobs,
            num_codes=first_stage.quantize.codebook_size,  # no other code has a picture
            seeds=seeds,
            known=known,
            keep=keep,
            weights=weights,
            max_cache_bytes=max_cache_bytes,
            callback=callback,
            progress=progress,
        )
    except SamplingInterrupted as interrupted:
        interrupted.images = decode_partial(first_stage, interrupted.codes, tile)
        raise
    codes, *logprobs = result if isinstance(result, tuple) else (result,)
    images = None
    try:
        for number, own in enumerate(codes.split(1)):
            image = decode(first_stage, own, tile)
            if images is None:  # a first stage of colours has no decoder to ask for shape and dtype
                images = image.new_zeros(len(codes), *image.shape[1:])
            images[number] = image[0]
    except KeyboardInterrupt:
        number = codes.numel()
        interrupted = SamplingInterrupted(codes, *(logprobs or [None]), number, number)
        interrupted.images = images
        raise interrupted from None
    extras = (*([codes] if return_codes else []), *logprobs)
    return (images, *extras) if extras else images


def default_grid(model: LatentTransformer, parts: Sequence[Tensor]) -> tuple[int, int]:
    """(H, W) of the grids that a transformer was trained on, in codes, with a condition's parts.

    For a GPT it is (w, w) with the largest w with w^2 + T - 1 <= block_size, where each grid of
    conditions has w^2 of the T tokens. Others have no positions to tell: it is `model.grid`. Where
    that is not known it is a guess: for a WindowGPT twice its reach, for a PixelSNAIL the pictures
    that the first stage was made for.
    """
    transformer = model.transformer
    if isinstance(transformer, PixelSNAIL | WindowGPT):
        if model.grid is not None:
            return model.grid
        if isinstance(transformer, WindowGPT):
            return (2 * transformer.reach,) * 2
        first_stage = model.first_stage_model
        return (first_stage.config["resolution"] // first_stage.downsampling_factor,) * 2
    grids = sum(part.ndim == 3 for part in parts)
    fixed = sum(part.shape[-1] for part in parts if part.ndim != 3)
    side = math.isqrt(max(transformer.block_size + 1 - fixed, 1 + grids) // (1 + grids))
    return side, side


@torch.no_grad()
def decode(first_stage: VQGAN | ColourCodes, codes: Tensor, tile: int | None = None) -> Tensor:
    """Images (B, C, f H, f W) in [-1, 1] of codes (B, H, W), one by one."""
    with evaluating(first_stage):
        images = [
            first_stage.decode_indices(image)
            if tile is None
            else decode_tiled(first_stage, image, tile, max(tile // 4, 1))
            for image in codes.split(1)
        ]
    return torch.cat(images).clamp(-1, 1)


def decode_partial(
    first_stage: VQGAN | ColourCodes, codes: Tensor, tile: int | None = None
) -> Tensor:
    """As `decode`, of codes that are UNKNOWN (-1) at some cells; grey (0) there."""
    flat = codes.flatten(1)
    known = flat != UNKNOWN
    # Behind the last known code in raster order: something plausible beside the known ones.
    places = torch.arange(flat.shape[1], device=codes.device)
    nearest = torch.where(known, places, 0).cummax(dim=1).values
    filled = flat.gather(1, nearest).clamp_min(0).view_as(codes)
    factor = first_stage.downsampling_factor
    shown = known.view_as(codes)[:, None]
    shown = shown.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return decode(first_stage, filled, tile) * shown


def _previews(
    first_stage: VQGAN | ColourCodes,
    tile: int | None,
    preview: Preview,
    every: int,
    callback: Callback | None,
) -> Callable[[int, int, Tensor], None]:
    check_integer("preview_every", every)
    step = 0

    def show(done: int, total: int, codes: Tensor) -> None:
        nonlocal step
        step += 1
        if callback is not None:
            callback(done, total, codes)
        if step % every == 0 or done == total:
            preview(done, total, decode_partial(first_stage, codes, tile))

    return show


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
