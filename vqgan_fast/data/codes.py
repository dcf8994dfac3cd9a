"""Codes of pictures in a safetensors file: what `vqgan-fast tokenize` writes and stage 2 trains on.

A file holds one tensor `tokens` (M, h, w) int32 and, as its metadata, the codebook's size and a
fingerprint of the codebook, so that codes are never read with another VQGAN's codebook by mistake.
Many codes go into a folder of such files (`code_folder.py`).
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vqgan_fast.models import VQGAN
from vqgan_fast.models.pretrained import replacing

from .images import DataError
from .naming import naming
from .stream import ImageStream, batches, to_model_range


class Codes(NamedTuple):
    """`parts` are tensors (M_i, h, w) int32 of codes below codebook_size, one for each file.

    They lie in the files, which the ranks of a machine share, until they are read.
    `codebook` is the codebook's fingerprint.
    """

    parts: tuple[Tensor, ...]
    codebook_size: int
    codebook: str

    @property
    def tokens(self) -> Tensor:
        """All of them, (M, h, w) int32."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, h, w)."""
        return (sum(map(len, self.parts)), *self.parts[0].shape[1:])

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The codes (B, h, w) int32 of B pictures by their number below M."""
        ends = list(itertools.accumulate(map(len, self.parts)))
        picked = []
        for number in numbers:
            part = bisect_right(ends, number)
            picked.append(self.parts[part][number - ends[part]])  # counted from the part's end
        return torch.stack(picked)


def codebook_fingerprint(codebook: Tensor) -> str:
    """Eight hexadecimal digits that tell two codebooks apart (CRC-32 of the float32 values)."""
    values = codebook.detach().to("cpu", torch.float32).contiguous().numpy()
    return f"{zlib.crc32(values):08x}"


def write_codes(
    path: str | os.PathLike[str],
    tokens: Tensor,
    codebook: Tensor,
    notes: Mapping[str, str] | None = None,
    empty: bool = False,
) -> None:
    """Write codes atomically: the file is there whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        tokens: (M, h, w) integers.
        codebook: (K, D), the codebook that the tokens point into.
        notes: further metadata.
        empty: M may be 0.

    Raises:
        DataError: tokens has another shape, or a token is out of range.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_tokens(tokens, codebook.shape[0], "tokens", empty)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "vqgan_fast.codes",
        "codebook_size": str(codebook.shape[0]),
        "codebook": codebook_fingerprint(codebook),
        **(notes or {}),
    }
    with naming(path), replacing(path) as unfinished:
        _save(unfinished, tokens.to("cpu", torch.int32).contiguous(), metadata)


def _save(path: Path, tokens: Tensor, metadata: Mapping[str, str]) -> None:
    """A safetensors file, the same bytes for the same content.

    The package's own writer gives the metadata another order in every process.
    """
    entry = {"dtype": "I32", "shape": list(tokens.shape), "data_offsets": [0, 4 * tokens.numel()]}
    header = json.dumps({"__metadata__": dict(metadata), "tokens": entry}).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers are aligned
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(tokens.numpy().astype("<i4", copy=False).tobytes())


def read_code_file(path: Path) -> tuple[Tensor, dict[str, str]]:
    """The tokens of one file, not looked at yet, and its metadata.

    Raises:
        DataError: it is no file of codes, or not whole.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tokens = opened.get_tensor("tokens")
        int(metadata["codebook_size"]), metadata["codebook"]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} is no file of codes as `tokenize` writes it: {error}") from error
    return tokens, metadata


def check_tokens(tokens: Tensor, codebook_size: int, name: str, empty: bool = False) -> None:
    """Raise a DataError if these are no codes (M, h, w) of the codebook; `empty`: M may be 0."""
    if tokens.ndim != 3 or (tokens.numel() == 0 and not empty) or tokens.dtype.is_floating_point:
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
    positions: range | None = None,
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
        positions: a part of the stream instead of all of it.
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
    if positions is None:
        positions = range(crops_per_image * stream.order.num_samples)
    tokens, skipped = [], {}
    source = batches(
        stream, batch_size, start=positions.start, count=-(-len(positions) // batch_size),
        num_workers=num_workers,
    )  # fmt: skip
    for batch in source:
        skipped.update(dict.fromkeys(batch.skipped))
        keep = [
            i
            for i, position in enumerate(batch.positions)
            if position < positions.stop
            and str(stream.files[stream.order.locate(position)[1]]) not in skipped
        ]
        if keep:
            indices = model.encode_indices(to_model_range(batch.images[keep], device))
            tokens.append(indices.to("cpu", torch.int32))
        if progress is not None:
            done = min(batch.positions[-1] + 1, positions.stop) - positions.start
            progress(done, len(positions))
    if not tokens:
        side = stream.size // model.downsampling_factor
        return torch.empty(0, side, side, dtype=torch.int32), tuple(skipped)
    return torch.cat(tokens), tuple(skipped)
