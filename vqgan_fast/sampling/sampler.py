"""Sampling codes from a transformer, on grids as large as its window or larger."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..models import GPT, PixelSNAIL, WindowGPT
from ..models.conditions import Tokens
from ..models.orderings import ROW_MAJOR, ordered_cells
from ..quantizers.checks import check_integer
from .board import Board
from .draw import DrawRule, Guidance, guidance_of_cells, is_guided
from .engine import Draws, Engine
from .grid_engine import GridEngine
from .inputs import check_callback, check_condition, check_positions, starting_codes
from .interrupted import SamplingInterrupted
from .logits_error import LogitsError
from .packed import Packed, WholeGridModel, pack
from .progress import progress_bar
from .ring_engine import RingEngine
from .ring_schedule import ring_steps
from .schedules import block_cells, exact_cells, raster_steps, wavefront_steps, window_cells
from .seeds import Seeds, image_seeds
from .window_engine import WindowEngine
from .windows import CodeGrid, height_and_width

SCHEDULES = ("exact", "block", "native")
ORDERS = ("wavefront", "raster")

Callback = Callable[[int, int, Tensor], object]


@torch.compiler.disable
def sample_codes(
    gpt: GPT | WindowGPT | PixelSNAIL | Packed,
    cond: Tokens,
    grid: tuple[int, int],
    *,
    window: int = 16,
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
    num_codes: int | None = None,
    seeds: Seeds | None = None,
    known: Tensor | None = None,
    keep: Tensor | None = None,
    weights: str | None = None,
    max_cache_bytes: int = 2**32,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sample a grid of codes for each image of a batch.

    Each code is drawn from the transformer's logits given the condition and codes around it (Esser,
    Rombach and Ommer, "Taming transformers for high-resolution image synthesis", CVPR 2021, section
    3.3). The schedule says which: it changes the picture. The order, the batch, the number of
    threads and the room for keys and values do not: an image's codes are a function of its
    condition, its known codes and its seed, to the bit. A PixelSNAIL is excepted: its logits come
    from torch's convolutions, whose last bits depend on the batch and the threads.

    Args:
        gpt: a GPT trained on sequences of condition and codes, with window^2 + T - 1 <= block_size;
            or a WindowGPT or PixelSNAIL; or what :func:`pack` made of one.
        cond: (B, T) int64 tokens that stand before every window (an sos token, a class), or (B, H,
            W) tokens of a second grid (codes, coordinates) that is cropped with the window, T =
            window^2 of them; or a tuple of such parts, which stand one behind the other. A
            WindowGPT or PixelSNAIL takes (B, 1) or (B, H, W).
        grid: (H, W), in codes, at least the window in both directions. A WindowGPT takes any; so
            does a PixelSNAIL, whose places stretch with the grid.
        window: side of the window, in codes: that of the grids that gpt was trained on. A GPT that
            reads codes in another order than row by row draws grids of one window only.
        schedule: "exact", the reference's windows: each cell in the middle of its own, or nearer to
            the border. "block", windows at multiples of `stride`, each of which draws what the
            windows before it have left: a small share of the work, and not the reference's
            pictures. "native", for a WindowGPT, whose window truncates instead of sliding, and a
            PixelSNAIL, which sees all that comes before. None is "native" for these, "exact" for a
            GPT.
        order: "wavefront", all cells at once that do not depend on each other; or "raster", one
            cell after the other. The codes are the same. (A PixelSNAIL's depend on all before.)
        stride: of the block schedule alone, in [1, window - 1], and 1 for a window of 1; None is
            half the window.
        temperature: divides the logits, >= 0; 0 is greedy.
        top_k: keep the k likeliest codes; None keeps all.
        top_p: after top_k, keep the fewest likeliest codes that hold this share of the probability.
        min_p: keep the codes that have at least this share of the likeliest one's probability.
        greedy: always take the likeliest code.
        guidance: logits become uncond + guidance * (cond - uncond). A number, or a function of the
            share of the cells that come before in raster order, in [0, 1). 1 is the condition
            alone. Another number doubles the work.
        uncond: the condition of the second term, tokens as `cond`, for B or 1 images.
        return_logprobs: return log-probabilities too: of each code given those before it, at
            temperature 1 and before the filters, under guidance if there is any; 0 at known cells.
        num_codes: draw codes in [0, num_codes) only, for a vocabulary that holds other tokens
            behind the codes; None is all of gpt's vocabulary.
        seeds: one 64-bit integer for each image; None draws them from torch's global CPU generator.
        known: (B, H, W) or (H, W) codes to complete; -1 where a code is to be drawn.
        keep: bool like `known`: True keeps its code. None keeps all that are not -1.
        weights: "float32", "bfloat16" or "int8", what gpt's weights are held in, see :func:`pack`.
        max_cache_bytes: for keys and values, 4 GiB by default. Where a schedule would keep more,
            windows are forwarded again when they come back (or, for a WindowGPT, images are drawn
            one group after the other): slower, the same codes.
        callback: called as callback(done, total, codes) after each step, with the number of codes
            drawn, the number of codes to draw, and a copy of the codes so far, -1 where unknown.
        progress: show a bar with the time left.

    Returns:
        (B, H, W) int64 codes on gpt's device; with return_logprobs, also (B, H, W) float32.

    Raises:
        ValueError: an argument is out of range or does not fit the others; the message names it.
        LogitsError: the transformer gives NaN, or no finite logit. A RuntimeError.
        SamplingInterrupted: Ctrl-C; it holds what was drawn. A KeyboardInterrupt.
    """
    packed = pack(gpt, weights)
    schedule = _check_schedule(schedule, order, stride, packed)
    num_codes = packed.model.vocab_size if num_codes is None else num_codes
    check_integer("num_codes", num_codes)
    if num_codes > packed.model.vocab_size:
        raise ValueError(f"num_codes must lie in [1, {packed.model.vocab_size}], got {num_codes}")
    check_integer("max_cache_bytes", max_cache_bytes)
    check_callback("callback", callback)
    rule = DrawRule(temperature, top_k, top_p, min_p, greedy)
    rule.check_vocabulary(num_codes)
    code_grid = CodeGrid(*height_and_width("grid", grid), 1 if packed.is_native else window)

    cond = check_condition("cond", cond, packed, code_grid, None)
    batch = len(cond[0])
    conditions, scales = [cond], None
    if uncond is not None:
        uncond = check_condition("uncond", uncond, packed, code_grid, batch)
        scales = np.array(guidance_of_cells(guidance, code_grid.num_cells))
        conditions.append(uncond)
    elif is_guided(guidance):
        given = "a function" if callable(guidance) else repr(guidance)
        raise ValueError(f"uncond must be given for a guidance other than 1, got {given}")
    if scales is not None and (scales == 1).all():
        conditions, scales = [cond], None  # the second term is multiplied by 0
    seeds = image_seeds(seeds, batch).to(packed.device)
    codes, is_known = starting_codes(known, keep, batch, code_grid, num_codes)
    draws = Draws(rule, seeds, num_codes, scales)
    codes = codes.to(packed.device)
    engine: Engine
    if isinstance(packed, WholeGridModel):
        board = Board(conditions, codes)
        parts = [condition[0] for condition in conditions]
        engine = GridEngine(packed, board, draws, parts, is_known)
    elif packed.is_native:
        board = Board(conditions, codes, constant=packed.model.vocab_size)  # the row token
        steps = _for_each_image(is_known, lambda k: ring_steps(k, packed.model.reach, order))
        engine = RingEngine(packed, board, draws, steps, max_cache_bytes)
    else:
        for condition in conditions:
            check_positions(condition, packed, code_grid)
        board = Board(conditions, codes)
        ordering = packed.model.ordering
        steps = _window_steps(schedule, order, code_grid, stride, is_known, ordering)
        engine = WindowEngine(packed, board, draws, window, steps, max_cache_bytes)
    _run(engine, int((~is_known).sum()), callback, progress)
    codes = board.codes.clone()
    return (codes, board.logprobs) if return_logprobs else codes


def _run(engine: Engine, total: int, callback: Callback | None, progress: bool) -> None:
    """Takes all passes; what was drawn stands on the engine's board, whatever stops it."""
    board, done = engine.board, 0
    with progress_bar(total, progress) as advance_bar:
        try:
            for one_pass in engine.passes():
                drawn = engine.advance(one_pass)
                done += drawn
                advance_bar(drawn)
                if callback is not None:
                    callback(done, total, board.codes.clone())
        except KeyboardInterrupt:
            # Between any two statements: `done` may be behind the board.
            codes, logprobs, left = board.so_far()
            raise SamplingInterrupted(codes, logprobs, total - left, total) from None
    if engine.packed.device.type != "cpu" and (board.codes < 0).any():
        # The CPU's kernel raises at once; others cannot without waiting for the device.
        image, row, column = (board.codes < 0).nonzero()[0].tolist()
        raise LogitsError(image, row, column)


def _check_schedule(schedule: str | None, order: str, stride: int | None, packed: Packed) -> str:
    if schedule is None:
        schedule = "native" if packed.is_native else "exact"
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
    if (schedule == "native") != packed.is_native:
        fitting = '"native"' if packed.is_native else '"exact" or "block"'
        raise ValueError(
            f"schedule must be {fitting} for a {type(packed.model).__name__}, got {schedule!r}"
        )
    if order not in ORDERS:
        raise ValueError(f"order must be one of {sorted(ORDERS)}, got {order!r}")
    if stride is not None and schedule != "block":
        raise ValueError(f'stride must be None without schedule = "block", got {stride!r}')
    return schedule


def _window_steps(
    schedule: str,
    order: str,
    grid: CodeGrid,
    stride: int | None,
    is_known: np.ndarray,
    ordering: str,
) -> list[list]:
    if ordering != ROW_MAJOR:
        if (grid.height, grid.width) != (grid.window, grid.window):
            raise ValueError(
                f"grid must be one window, {grid.window} x {grid.window} codes, for a GPT that "
                f"reads codes in {ordering} order, got {grid.height} x {grid.width}"
            )
        # One after the other: every cell sees all before it.
        cells = window_cells(grid, ordered_cells(ordering, grid.height, grid.width).tolist())
        return _for_each_image(is_known, lambda known: raster_steps(cells, known))
    if schedule == "block":
        stride = max(grid.window // 2, 1) if stride is None else stride
        check_integer("stride", stride)
        largest = max(grid.window - 1, 1)  # windows of one code must leave no cell between them
        if stride > largest:
            raise ValueError(f"stride must lie in [1, {largest}], got {stride}")
        cells = block_cells(grid, stride)
    else:
        cells = exact_cells(grid)
    if order == "raster":
        return _for_each_image(is_known, lambda known: raster_steps(cells, known))
    return _for_each_image(is_known, lambda known: wavefront_steps(cells, known, grid.window))


def _for_each_image(is_known: np.ndarray, steps: Callable) -> list[list]:
    """The steps of each image; images with the same known cells share them."""
    made: dict[bytes, list] = {}
    for known in is_known:
        if known.tobytes() not in made:
            made[known.tobytes()] = list(steps(known))
    return [made[known.tobytes()] for known in is_known]
