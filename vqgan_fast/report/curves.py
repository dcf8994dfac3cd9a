"""Loss curves of a run of both stages, drawn from the metrics.jsonl that training wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entries = Sequence[Mapping[str, float]]
TRAINING, HELD_OUT, BASELINE = "#3b6ea5", "#c8553d", "#888888"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The entries of a metrics.jsonl, in the order of their steps."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_curves(
    stage1: Entries,
    stage2: Entries,
    path: Path,
    *,
    mean_colour_psnr: float,
    unigram: float,
    gan_start: int,
) -> None:
    """Four panels as a PNG: loss, held-out PSNR and codebook of stage 1; nats per code of stage 2.

    Args:
        stage1, stage2: entries of each stage's metrics.jsonl.
        mean_colour_psnr: baseline of the second panel, in dB, a mean over crops like its curve.
        unigram: baseline of the last panel, in nats per code.
        gan_start: the step at which the discriminator joins; a dotted line if it was reached.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, quality, codebook, likelihood = figure.subplots(2, 2).flat
    _curve(loss, stage1, "rec_loss", TRAINING, "training: L1 + perceptual")
    _curve(loss, stage1, "val_l1", HELD_OUT, "held out: L1 alone")
    _finish(loss, "Stage 1: reconstruction loss", "loss")

    _curve(quality, stage1, "val_psnr", HELD_OUT, "held out")
    quality.axhline(mean_colour_psnr, color=BASELINE, linestyle="--", label="mean colour")
    _finish(quality, "Stage 1: PSNR, mean over crops", "dB")

    _curve(codebook, stage1, "codebook_usage", TRAINING, "training")
    _curve(codebook, stage1, "val_codebook_usage", HELD_OUT, "held out")
    codebook.set_ylim(0, 1.05)
    _finish(codebook, "Stage 1: codes in use", "share of the codebook")

    for axes in (loss, quality, codebook):
        if stage1[-1]["step"] > gan_start:
            axes.axvline(gan_start, color=BASELINE, linewidth=0.8, linestyle=":")

    _curve(likelihood, stage2, "nll", TRAINING, "training")
    _curve(likelihood, stage2, "val_nll", HELD_OUT, "held out")
    likelihood.axhline(unigram, color=BASELINE, linestyle="--", label="unigrams, held out")
    _finish(likelihood, "Stage 2: negative log-likelihood", "nats per code")
    figure.savefig(path, dpi=100, format="png")


def _curve(axes: Axes, entries: Entries, key: str, colour: str, label: str) -> None:
    points = [(entry["step"], entry[key]) for entry in entries if key in entry]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, label=label, marker=".", markersize=4)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(fontsize=9)
