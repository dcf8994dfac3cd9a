"""The pictures of a demo and the page that shows them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models import LatentTransformer
from ..models.pretrained import replacing
from ..report.page import Figure, Section, page
from ..report.pictures import comparison, picture_grid, to_picture, write_picture
from ..sampling import sample
from .folder import LIST_FILE
from .measure import Encoded

PICTURES = {
    "reconstructions": "reconstructions.png",
    "loss_curves": "loss_curves.png",
    "samples": "samples.png",
    "wide": "wide.png",
}
SAMPLES = 16
COLUMNS = 8
WIDE = 5  # how many training crops wide the large picture is
SEED = 1
DRAW = {"temperature": 0.9, "top_k": 128}  # a little tamer than the transformer's own distribution


def show_reconstructions(held_out: Encoded, path: Path) -> None:
    """Held-out crops and what comes back from their codes, two rows of each."""
    count = min(2 * COLUMNS, len(held_out.images))
    chosen = torch.linspace(0, len(held_out.images) - 1, count).long()
    rows = [
        ("held-out regions of the pictures", held_out.images[chosen]),
        ("the same from their codes", held_out.reconstructions[chosen]),
    ]
    write_picture(comparison(rows, columns=COLUMNS, scale=2), path)


def drawing(model: LatentTransformer) -> dict[str, float]:
    """DRAW, with top_k no larger than the codebook."""
    codebook_size = model.first_stage_model.quantize.codebook_size
    return {**DRAW, "top_k": min(DRAW["top_k"], codebook_size)}


def show_samples(model: LatentTransformer, window: int, path: Path) -> None:
    """Unconditional samples of the size of a training crop."""
    images = sample(
        model,
        window=window,
        seeds=range(SEED, SEED + SAMPLES),
        progress=sys.stderr.isatty(),
        **drawing(model),
    )
    write_picture(picture_grid(images, columns=COLUMNS, scale=2), path)


def show_wide(
    model: LatentTransformer, grid: tuple[int, int], window: int, path: Path
) -> list[int]:
    """One picture of a grid wider than any crop, by the exact sliding window.

    Returns:
        Its [height, width] in pixels.
    """
    images = sample(
        model,
        grid=grid,
        window=window,
        seeds=[SEED],
        progress=sys.stderr.isatty(),
        **drawing(model),
    )
    write_picture(to_picture(images[0]), path)
    return list(images.shape[2:])


def write_page(metrics: Mapping[str, Any], path: Path, output: Path) -> None:
    """index.html: the figures, every picture, and how to go on.

    Args:
        metrics: what metrics.json holds.
        output: the demo's folder, as commands would name it.
    """
    stage1, stage2 = metrics["stage1"], metrics["stage2"]
    size, grid = metrics["crop_pixels"], metrics["grid"]
    figures = [
        Figure(
            f"{metrics['gain_db']:.1f} dB",
            f"better than the mean colour: held-out PSNR {metrics['heldout_psnr']:.1f} dB against "
            f"{metrics['mean_colour_psnr']:.1f} dB",
        ),
        Figure(
            f"{metrics['codebook_usage_training']:.0%} / {metrics['codebook_usage_heldout']:.0%}",
            f"of the {stage1['codebook_size']} codes in use: training / held out",
        ),
        Figure(
            f"{metrics['nll_per_code']:.2f} nats",
            f"for a held-out code; {metrics['unigram_cross_entropy']:.2f} from its frequency alone",
        ),
        Figure(
            f"{metrics['seconds']['total'] / 60:.1f} min",
            f"on {metrics['versions']['threads']} threads, from nothing to this page",
        ),
    ]
    sections = [
        Section(
            "Reconstructions of what training never saw",
            f"The right quarter of every picture is held out: no training crop of either stage "
            f"touches it. Above, crops of {size} x {size} pixels from there; below, what the "
            f"decoder makes of their {grid[0]} x {grid[1]} codes.",
            PICTURES["reconstructions"],
        ),
        Section(
            "One wide picture",
            f"Sampled from nothing, {metrics['wide_pixels'][1]} x {metrics['wide_pixels'][0]} "
            f"pixels: {metrics['wide_pixels'][1] / size:.0f} times as wide as any crop the models "
            f"were trained on. Each code is drawn inside a sliding window of {grid[0]} x {grid[1]} "
            f"codes.",
            PICTURES["wide"],
        ),
        Section(
            "Samples",
            f"{SAMPLES} unconditional samples of the size of a training crop, at temperature "
            f"{DRAW['temperature']} from the {DRAW['top_k']} likeliest codes. After minutes of "
            f"training on a few pictures, expect their colours and textures, not their objects.",
            PICTURES["samples"],
        ),
        Section(
            "Training",
            f"Stage 1: {stage1['steps']} steps of {stage1['batch_size']} crops; "
            f"{_discriminator(stage1)} Stage 2: {stage2['steps']} steps of "
            f"{stage2['batch_size']}.",
            PICTURES["loss_curves"],
        ),
        Section("Where the time went", rows=_times(metrics["seconds"])),
        Section("Made with", rows=[(name, str(v)) for name, v in metrics["versions"].items()]),
        Section(
            "Go on from here",
            "More pictures of these models, your own pictures through them, longer training, and a "
            "demo of your own pictures. All figures of this page are in metrics.json.",
            code=_commands(output, metrics),
        ),
    ]
    text = page(
        "vqgan_fast: the demo",
        f"A VQGAN (f{stage1['downsampling_factor']}, {stage1['codebook_size']} codes) and a "
        f"transformer, trained on {metrics['pictures']} pictures.",
        metrics["perceptual_note"],
        figures,
        sections,
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _discriminator(stage1: Mapping[str, Any]) -> str:
    start = stage1["discriminator_from_step"]
    if stage1["steps"] > start:
        return f"the discriminator joined at step {start} (dotted line)."
    return f"the time was over before the discriminator joined, at step {start}."


def _times(seconds: Mapping[str, float]) -> Sequence[tuple[str, str]]:
    return [(name, f"{value:.0f} s") for name, value in seconds.items()]


def _commands(output: Path, metrics: Mapping[str, Any]) -> str:
    height, width = metrics["grid"]
    stage1, stage2 = (shlex.quote(str(output / name)) for name in ("stage1", "stage2"))
    config1, config2 = (
        shlex.quote(str(output / name / "config.yaml")) for name in ("stage1", "stage2")
    )
    pictures = shlex.quote(f"data.train={output / LIST_FILE}")
    longer = shlex.quote(f"run_dir={output / 'stage2_longer'}")
    return f"""\
# another wide picture, from a smaller set of likelier codes
vqgan-fast sample {stage2} --number 1 --grid {height}x{8 * width} --top-k 100 --seed 7

# your own pictures through the codes and back
vqgan-fast reconstruct {stage1} photo.jpg --resize 256

# train stage 1 on, as long as you like (Ctrl-C stops with a checkpoint) ...
vqgan-fast train {config1} --resume \\
    optim.max_minutes=null optim.steps={20 * metrics["stage1"]["steps"]}

# ... and stage 2 anew, on the codes that it gives then
vqgan-fast train {config2} {longer} data.codes=null {pictures} \\
    optim.max_minutes=null optim.steps={20 * metrics["stage2"]["steps"]}

# the same for a folder of yours
vqgan-fast demo --data photos/ --minutes 30 --output runs/photos"""
