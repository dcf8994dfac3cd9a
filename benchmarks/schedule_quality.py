"""What each schedule of sampling sees, judged on real pictures larger than a training crop.

    python benchmarks/compare_native.py runs/demo --runs runs/native_vs_absolute
    python benchmarks/schedule_quality.py runs/native_vs_absolute --output benchmarks/results

Held-out strips, as wide as a training crop and four times as high, are encoded, and every code's
negative log-likelihood is taken given the codes that its schedule shows before it: the windows of
`exact` and `block` through the GPT, the whole strip through the WindowGPT. No sampling enters.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tables import Row, Tables
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from vqgan_fast.data import list_images, read_image, to_model_range
from vqgan_fast.data.crops import region_box, resize_shorter_side
from vqgan_fast.models import VQGAN, LatentTransformer
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.sampling.schedules import block_cells, exact_cells
from vqgan_fast.sampling.windows import Cell, CodeGrid
from vqgan_fast.train import load_config
from vqgan_fast.train.config import DataConfig

HEIGHT = 4  # training crops high
BATCH = 16


def held_out_strips(data: DataConfig, limit: int) -> Tensor:
    """(N, 3, HEIGHT S, S) uint8: the left upper corner of each picture's held-out region."""
    strips = []
    for file in list_images(data.validation):
        picture = resize_shorter_side(read_image(file), data.resize)
        left, top, right, bottom = region_box(*picture.size, data.validation_region)
        box = (left, top, left + data.size, top + HEIGHT * data.size)
        if box[2] <= right and box[3] <= bottom and len(strips) < limit:
            strips.append(pil_to_tensor(picture.crop(box)))
    return torch.stack(strips)


@torch.inference_mode()
def encode(vqgan: VQGAN, strips: Tensor) -> Tensor:
    parts = [vqgan.encode_indices(to_model_range(part)) for part in strips.split(BATCH)]
    return torch.cat(parts).view(len(strips), strips.shape[2] // vqgan.downsampling_factor, -1)


def nll(logits: Tensor, codes: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)


def in_parts(model: LatentTransformer, cond: Tensor, codes: Tensor) -> Tensor:
    """`code_logits`, of as many pictures at a time as memory is spent on."""
    pairs = zip(cond.split(BATCH), codes.split(BATCH), strict=True)
    return torch.cat([code_logits(model.transformer, *pair) for pair in pairs])


@torch.inference_mode()
def windowed_nll(
    model: LatentTransformer, codes: Tensor, cells: Sequence[Cell], window: int
) -> Tensor:
    """(B, H, W) of codes (B, H, W), each in its cell's window."""
    result = torch.full(codes.shape, torch.nan)
    cond = model.cond_stage_model(len(codes), codes.device)
    cells_of = defaultdict(list)
    for cell in cells:
        cells_of[cell.top, cell.left].append(cell)
    for (top, left), own in cells_of.items():
        shown = codes[:, top : top + window, left : left + window].flatten(1)
        ranks = torch.tensor([cell.rank for cell in own])
        logits = in_parts(model, cond, shown)
        values = nll(logits[:, ranks], shown[:, ranks])
        result.view(len(codes), -1)[:, [cell.index for cell in own]] = values
    return result


@torch.inference_mode()
def native_nll(model: LatentTransformer, codes: Tensor) -> Tensor:
    cond = model.cond_stage_model(len(codes), codes.device)
    return nll(in_parts(model, cond, codes), codes.flatten(1)).view_as(codes)


def row_of(schedule: str, values: Tensor, window: int) -> Row:
    rows = values.mean((0, 2))
    return {
        "schedule": schedule,
        "all rows": float(rows.mean()),
        "the first window's": float(rows[:window].mean()),
        "below it": float(rows[window:].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="what compare_native.py wrote")
    parser.add_argument("--strips", type=int, default=64, help="at most this many pictures")
    parser.add_argument("--strides", type=int, nargs="*", default=[4, 8, 12, 15])
    parser.add_argument("--output", type=Path, help="a folder for schedule_quality_<CPU>.json, .md")
    args = parser.parse_args()
    gpt, native = (
        LatentTransformer.from_pretrained(args.runs / kind / "model").eval()
        for kind in ("gpt", "window_gpt")
    )
    data = load_config(args.runs / "gpt" / "config.yaml", check=False).data
    codes = encode(gpt.first_stage_model, held_out_strips(data, args.strips))
    window = codes.shape[2]
    grid = CodeGrid(codes.shape[1], codes.shape[2], window)
    tables = Tables(
        f"Held-out strips of {grid.height} x {grid.width} codes under each schedule",
        strips=len(codes), window=window,
    )  # fmt: skip
    schedules = {"exact": exact_cells(grid)}
    schedules |= {f"block, stride {stride}": block_cells(grid, stride) for stride in args.strides}
    rows = [
        row_of(name, windowed_nll(gpt, codes, cells, window), window)
        for name, cells in schedules.items()
    ]
    values = native_nll(native, codes)
    tables.add("Nats a code", [*rows, row_of("native", values, window)])
    for file in tables.write(args.output, "schedule_quality"):
        print(file)


if __name__ == "__main__":
    main()
