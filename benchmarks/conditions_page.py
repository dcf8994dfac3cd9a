"""Samples of the runs of train_conditions.py beside their condition maps, on one picture.

python benchmarks/conditions_page.py runs/conditions docs/images/conditions.png
"""

from __future__ import annotations

import argparse
import math
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vqgan_fast.cli.held_out import held_out_of
from vqgan_fast.data import to_model_range
from vqgan_fast.models import LatentTransformer
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.models.conditions import Tokens, map_tokens
from vqgan_fast.report.pictures import beside, comparison, labelled, stack
from vqgan_fast.sampling import sample
from vqgan_fast.train.conditioning import shuffled

SHOWN, SCALE, COLUMNS = 6, 2, 2
DRAW = {"temperature": 1.0, "top_p": 0.92}


class HeldOutRun(NamedTuple):
    """A trained model, its V held-out pictures in [-1, 1], their tokens, their maps as pictures."""

    model: LatentTransformer
    images: Tensor
    condition: Tokens
    drawn: list[Tensor]


def load(run: Path) -> HeldOutRun:
    model = LatentTransformer.from_pretrained(run / "model")
    held_out = held_out_of(run, model)
    crops, condition = held_out.crops, held_out.tokens("cpu", batch=16)
    drawn = [to_model_range(maps) for maps in crops.drawn(len(crops.images))]
    return HeldOutRun(model, to_model_range(crops.images), condition, drawn)


@torch.no_grad()
def difference(run: Path) -> tuple[float, float]:
    """How much more a held-out code costs with another picture's condition, in nats: the mean over
    the pictures, and its standard error."""
    model, images, condition, _ = load(run)
    codes = model.encode_to_codes(images)
    costs = [
        F.cross_entropy(
            code_logits(model.transformer, tokens, codes).movedim(-1, 1),
            codes.flatten(1), reduction="none",
        ).mean(1)
        for tokens in (condition, shuffled(condition))
    ]  # fmt: skip
    more = costs[1] - costs[0]
    return float(more.mean()), float(more.std()) / math.sqrt(len(more))


def rows_of(run: Path) -> Image.Image:
    """Condition maps, the pictures that they are of, and samples, under the run's name."""
    model, images, condition, drawn = load(run)
    rows = torch.linspace(0, len(images) - 1, SHOWN).long()
    own = map_tokens(itemgetter(rows), condition)
    side = images.shape[-1] // model.first_stage_model.downsampling_factor
    seeds = range(SHOWN)
    names = ["condition", "held-out picture", "sample", "another sample"]
    parts = [drawn[0][rows], images[rows]]
    for first in (0, SHOWN):
        parts.append(sample(model, own, (side, side), seeds=[first + s for s in seeds], **DRAW))
    size = SCALE * images.shape[-1]
    large = [F.interpolate(part, (size, size), mode="nearest") for part in parts]
    return labelled(comparison(list(zip(names, large, strict=True))), run.name.replace("_", " "))


def page(root: Path) -> Image.Image:
    """All tasks whose runs are in the folder, in columns."""
    runs = sorted(path.parent.parent for path in root.glob("*/model/config.json"))
    blocks = [rows_of(run) for run in runs]
    column = -(-len(blocks) // COLUMNS)
    return beside([stack(blocks[i : i + column]) for i in range(0, len(blocks), column)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="--output of train_conditions.py")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    page(args.runs).quantize(256).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
