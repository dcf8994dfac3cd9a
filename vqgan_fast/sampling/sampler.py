"""Sampling codes from the transformer, on grids as large as its window or larger."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..models.gpt import GPT
from ..quantizers.checks import check_integer
from .draw import DrawRule
from .inference import evaluating, ordinary_copy
from .seeds import Seeds, image_seeds
from .window_logits import WindowLogits
from .windows import Cell, CodeGrid, cell_generator, height_and_width

UNKNOWN = -1  # stands in the codes at the cells that are not drawn yet

Callback = Callable[[int, int, Tensor], None]


def sample_codes(
    gpt: GPT,
    cond: Tensor,
    grid: tuple[int, int],
    *,
    window: int = 16,
    schedule: str = "exact",
    order: str = "raster",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    num_codes: int | None = None,
    seeds: Seeds | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Sample a grid of codes for each image of a batch.

    Each cell is drawn from the GPT's logits given the condition and the codes before it in a window
    x window crop around it (Esser, Rombach and Ommer, "Taming transformers for high-resolution
    image synthesis", CVPR 2021, section 3.3). A grid as large as the window needs one pass over the
    condition and then one token for each code; in a larger one the window slides.

    An image's codes depend on its condition and its seed, not on the other images of the batch or
    its place among them, as far as the GPT's matrix products are the same at every batch size
    (torch's may differ in the last bits, which flips a draw between two nearly equal codes now and
    then).

    Args:
        gpt: a GPT trained on sequences of condition and codes, with window^2 + T - 1 <= block_size.
        cond: (B, T) int64 tokens that stand before every window (an sos token, a class), or (B, H,
            W) tokens of a second grid that is cropped with the window, T = window^2 of them.
        grid: (H, W), in codes, at least the window in both directions.
        window: side of the window, in codes: that of the grids that gpt was trained on.
        schedule: "exact", the reference's sliding window.
        order: "raster", row by row.
        temperature: divides the logits, > 0.
        top_k: keep the k likeliest codes; None keeps all.
        top_p: after top_k, keep the fewest likeliest codes that hold this share of the probability.
        greedy: always take the likeliest code.
        num_codes: draw codes in [0, num_codes) only, for a vocabulary that holds other tokens
            behind the codes; None is all of gpt's vocabulary.
        seeds: one 64-bit integer for each image; None draws them from torch's global CPU generator.
        callback: called as callback(done, total, codes) after each cell, with a copy of the codes
            so far, -1 where they are unknown.
        progress: show a bar with the time left.

    Returns:
        (B, H, W) int64 codes on gpt's device.

    Raises:
        ValueError: an argument is out of range or does not fit the others; the message names it.
    """
    cells = cell_generator(schedule, order)
    num_codes = gpt.vocab_size if num_codes is None else num_codes
    check_integer("num_codes", num_codes)
    if num_codes > gpt.vocab_size:
        raise ValueError(f"num_codes must lie in [1, {gpt.vocab_size}], got {num_codes}")
    rule = DrawRule(temperature, top_k, top_p, greedy)
    rule.check_vocabulary(num_codes)
    code_grid = CodeGrid(*height_and_width("grid", grid), window)
    device = gpt.pos_emb.device

    with torch.inference_mode(), evaluating(gpt):
        logits_at = WindowLogits(gpt, cond.to(device), code_grid)
        batch_size = cond.shape[0]
        seeds = image_seeds(seeds, batch_size).to(device)
        codes = torch.full((batch_size, code_grid.height, code_grid.width), UNKNOWN, device=device)
        total = code_grid.num_cells
        for done, cell in enumerate(_with_progress(cells(code_grid), total, progress), start=1):
            logits = logits_at(codes, cell)[:, :num_codes]
            codes[:, cell.row, cell.column] = rule.draw(logits, seeds, cell.index)
            if callback is not None:
                callback(done, total, ordinary_copy(codes))
    return ordinary_copy(codes)


def _with_progress(cells: Iterable[Cell], total: int, progress: bool) -> Iterable[Cell]:
    if not progress:
        return cells
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or leave it out") from error
    return tqdm(cells, total=total, unit="code", desc="sampling")
