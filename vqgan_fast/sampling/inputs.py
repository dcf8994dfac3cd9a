"""What a caller gives a sampling run, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.conditions import Tokens
from ..quantizers.checks import check_indices
from .board import UNKNOWN
from .packed import Packed, PackedTransformer
from .windows import CodeGrid


def check_condition(
    name: str, cond: Tokens, packed: Packed, grid: CodeGrid, batch: int | None
) -> tuple[Tensor, ...]:
    """The parts of a condition on the transformer's device, for each image of the batch.

    Args:
        name: what errors call it.
        cond: (B, T) tokens, or (B, H, W) for the grid's cells, or a tuple of such parts, one
            behind the other. A WindowGPT or PixelSNAIL takes one part only, and T = 1.
        packed: the transformer.
        grid: the grid of codes.
        batch: B; None takes what comes. One row stands for all images where another part or the
            batch has more.

    Raises:
        ValueError: another shape, dtype or batch, a token outside the vocabulary; fewer tokens than
            the transformer leaves unmasked.
    """
    model = packed.model
    parts = condition_parts(name, cond)
    if len(parts) != 1 and (packed.is_native or not parts):
        raise ValueError(
            f"{name} must have {'one part' if packed.is_native else 'at least one part'}, got "
            f"{len(parts)}"
        )
    for part in parts:
        _check_part(name, part, packed, grid)
    batch = condition_batch(name, parts, batch)
    length = condition_length(parts, grid)
    if length < model.n_unmasked:
        raise ValueError(
            f"{name} must have at least the {model.n_unmasked} tokens that gpt.n_unmasked leaves "
            f"unmasked, got {length}"
        )
    return tuple(
        part.to(packed.device, torch.int64).expand(batch, *part.shape[1:]) for part in parts
    )


def condition_parts(name: str, tokens: Tokens) -> tuple[Tensor, ...]:
    """The parts of a condition; ValueError unless each is a tensor (B, T) or (B, H, W)."""
    parts = tokens if isinstance(tokens, tuple) else (tokens,)
    for part in parts:
        check_tensor(name, part)
        if part.ndim not in (2, 3):
            raise ValueError(
                f"{name} must be (B, T) tokens or (B, H, W) for the grid, got shape "
                f"{tuple(part.shape)}"
            )
    return parts


def condition_batch(name: str, parts: Sequence[Tensor], batch: int | None = None) -> int:
    """B, how many images the parts of a condition are for, where one row stands for all of them.

    Args:
        batch: B, if it is known; None takes the most rows that a part has.

    Raises:
        ValueError: a part without rows, or with others than 1 or B.
    """
    sizes = [part.shape[0] for part in parts]
    if 0 in sizes:
        raise ValueError(f"{name} must hold at least one image, got a batch of 0")
    batch = max(sizes, default=1) if batch is None else batch
    for size in sizes:
        if size not in (1, batch):
            raise ValueError(f"{name} must have a batch of 1 or {batch}, got {size}")
    return batch


def _check_part(name: str, part: Tensor, packed: Packed, grid: CodeGrid) -> None:
    tokens = "(B, 1)" if packed.is_native else "(B, T) tokens with T >= 1"
    shapes = f"{tokens} or (B, {grid.height}, {grid.width}) for the grid"
    fits = part.ndim == 3 and part.shape[1:] == (grid.height, grid.width)
    fits |= part.ndim == 2 and (part.shape[1] == 1 or (part.shape[1] > 1 and not packed.is_native))
    if not fits:
        raise ValueError(f"{name} must be {shapes}, got shape {tuple(part.shape)}")
    check_indices(name, part, packed.model.vocab_size, synchronize=True)


def condition_length(parts: Sequence[Tensor], grid: CodeGrid) -> int:
    """T, the tokens that stand before a window's codes."""
    return sum(grid.window**2 if part.ndim == 3 else part.shape[1] for part in parts)


def check_positions(parts: Sequence[Tensor], packed: PackedTransformer, grid: CodeGrid) -> None:
    """ValueError if condition and window are longer than the transformer's table of positions."""
    length, room = condition_length(parts, grid), packed.model.block_size
    if length + grid.window**2 - 1 > room:
        raise ValueError(
            f"window must satisfy window^2 + T - 1 <= gpt.block_size = {room}, got window = "
            f"{grid.window} with T = {length} condition tokens: {length + grid.window**2 - 1}"
        )


def starting_codes(
    known: Tensor | None, keep: Tensor | None, batch: int, grid: CodeGrid, num_codes: int
) -> tuple[Tensor, np.ndarray]:
    """The codes that a run starts from, and where they are known.

    Args:
        known: (H, W) or (B, H, W) int64 codes; UNKNOWN (-1) at cells to draw. None: all of them.
        keep: bool like `known`, True where its code is kept; None keeps all but the UNKNOWN ones.

    Returns:
        codes (B, H, W) int64 on the CPU, and bool (B, H, W).

    Raises:
        ValueError: a shape, dtype or code that does not fit; `keep` without `known`, or True where
            the code is UNKNOWN.
    """
    shape = (batch, grid.height, grid.width)
    codes = torch.full(shape, UNKNOWN, device="cpu")  # whatever torch's default device is
    if known is None:
        if keep is not None:
            raise ValueError("keep must be None where no known codes are given")
        return codes, np.zeros(shape, dtype=bool)
    known = _like_grid("known", known, shape)
    if known.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"known must be int64 or int32, got {known.dtype}")
    kept = known != UNKNOWN
    if keep is not None:
        keep = _like_grid("keep", keep, shape)
        if keep.dtype != torch.bool:
            raise ValueError(f"keep must be bool, got {keep.dtype}")
        if (keep & ~kept).any():
            raise ValueError(f"keep must be False where known is {UNKNOWN}, an unknown code")
        kept = keep
    if kept.any():
        check_indices("known", known[kept], num_codes, synchronize=True)
    return torch.where(kept, known.long(), codes), kept.numpy()


def check_model(model: object) -> None:
    """TypeError unless it has both stages, as a LatentTransformer has.

    Asked of the parts, not the class: what torch.compile returns has another class.
    """
    parts = ("transformer", "first_stage_model", "cond_stage_model")
    if not all(hasattr(model, part) for part in parts):
        raise TypeError(
            "model must be a LatentTransformer, which holds both stages and which "
            "LatentTransformer.from_pretrained reads from a folder, got "
            f"{repr(model) if isinstance(model, str) else type(model).__name__}"
        )


def check_callback(name: str, value: object) -> None:
    """ValueError if it is neither None nor a function."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a function or None, got {value!r}")


def check_tensor(name: str, value: object) -> None:
    """ValueError if it is something else, such as a list or an array."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")


def _like_grid(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    check_tensor(name, tensor)
    if tensor.shape not in (shape, shape[1:]):
        raise ValueError(
            f"{name} must be (B, H, W) = {shape} or (H, W) = {shape[1:]}, got {tuple(tensor.shape)}"
        )
    return tensor.detach().cpu().expand(shape)
