"""Codes of pictures in a safetensors file: what `vqgan-fast tokenize` writes and stage 2 trains on.

The file holds one tensor `tokens` (M, h, w) int32 and, as its metadata, the codebook's size and a
fingerprint of the codebook, so that codes are never read with another VQGAN's codebook by mistake.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vqgan_fast.models import VQGAN

from .images import DataError
from .stream import ImageStream, batches, to_model_range


class Codes(NamedTuple):
    """`tokens` (M, h, w) int32 below codebook_size; `codebook` is the codebook's fingerprint."""

    tokens: Tensor
    codebook_size: int
    codebook: str


def codebook_fingerprint(codebook: Tensor) -> str:
    """Eight hexadecimal digits that tell two codebooks apart (CRC-32 of the float32 values)."""
    values = codebook.detach().to("cpu", torch.float32).contiguous().numpy()
    return f"{zlib.crc32(values):08x}"


def write_codes(path: str | os.PathLike[str], tokens: Tensor, codebook: Tensor) -> None:
    """Write codes atomically: the file is there whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        tokens: (M, h, w) integers.
        codebook: (K, D), the codebook that the tokens point into.

    Raises:
        DataError: tokens has another shape, or a token is out of range.
    """
    path = Path(path)
    _check_tokens(tokens, codebook.shape[0], "tokens")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "vqgan_fast.codes",
        "codebook_size": str(codebook.shape[0]),
        "codebook": codebook_fingerprint(codebook),
    }
    unfinished = path.with_name(f".{path.name}.unfinished")
    save_file({"tokens": tokens.to("cpu", torch.int32).contiguous()}, unfinished, metadata)
    unfinished.replace(path)


def read_codes(path: str | os.PathLike[str]) -> Codes:
    """Read what `write_codes` wrote.

    Raises:
        DataError: no such file, not such a file, or a token outside the codebook.
    """
    if not Path(path).is_file():
        raise DataError(f"there is no file of codes {path}; `vqgan-fast tokenize` writes one")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tokens = opened.get_tensor("tokens")
            codebook_size, codebook = int(metadata["codebook_size"]), metadata["codebook"]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is no file of codes as `tokenize` writes it: {error}") from error
    _check_tokens(tokens, codebook_size, str(path))
    return Codes(tokens, codebook_size, codebook)


def _check_tokens(tokens: Tensor, codebook_size: int, name: str) -> None:
    if tokens.ndim != 3 or tokens.numel() == 0 or tokens.dtype.is_floating_point:
        raise DataError(
            f"{name} must be integers (M, h, w), none of them 0, got {tokens.dtype} "
            f"{tuple(tokens.shape)}"
        )
    outside = (tokens < 0) | (tokens >= codebook_size)
    if outside.any():
        row, y, x = (int(i) for i in outside.nonzero()[0])
        raise DataError(
            f"{name}: token {int(tokens[row, y, x])} at [{row}, {y}, {x}] is out of range; the "
            f"codebook has {codebook_size} codes, 0 to {codebook_size - 1}"
        )


@torch.no_grad()
def tokenize_images(
    model: VQGAN,
    stream: ImageStream,
    *,
    crops_per_image: int = 1,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """The codes of every picture of a stream, in the stream's order.

    A picture that cannot be read is left out. A stream with `shuffle=False` gives the order of the
    files; with `crop="center"` one crop of each picture says all, with `crop="random"` several give
    stage 2 more to learn from.

    Args:
        model: in eval mode, on the device that is to do the work.
        crops_per_image: how many crops of each picture, each with its own random crop and flip.
        progress: called with (crops done, crops in all) after each batch.

    Returns:
        tokens (M, h, w) int32 on the CPU, and the names of the files left out.

    Raises:
        ValueError: the model's quantiser is a residual one: a place has several codes.
    """
    if model.quantize.codes_per_latent != 1:
        raise ValueError(
            "model must have one code for each latent, got a quantiser with "
            f"{model.quantize.codes_per_latent}"
        )
    device = next(model.parameters()).device
    total = crops_per_image * stream.order.num_samples
    tokens, skipped = [], {}
    count = -(-total // batch_size)
    for batch in batches(stream, batch_size, count=count, num_workers=num_workers):
        skipped.update(dict.fromkeys(batch.skipped))
        keep = [
            i
            for i, position in enumerate(batch.positions)
            if position < total
            and str(stream.files[stream.order.locate(position)[1]]) not in skipped
        ]
        if keep:
            indices = model.encode_indices(to_model_range(batch.images[keep], device))
            tokens.append(indices.to("cpu", torch.int32))
        if progress is not None:
            progress(min(batch.positions[-1] + 1, total), total)
    return torch.cat(tokens), tuple(skipped)
