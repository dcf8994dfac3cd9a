"""What the demo says while it runs, on stderr beside the progress bars of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from ..train.config import OptimConfig

_console = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line."""
    _console.print(message, markup=False)


def warn(message: str) -> None:
    """A text that must not be missed."""
    _console.print(Panel(message, title="Please note", border_style="yellow"))


def announce(title: str, optim: OptimConfig) -> None:
    """The heading of a training stage, with the time and the steps at which it ends."""
    _console.rule(title)
    say(f"{optim.steps} steps, or as many as fit into {optim.max_minutes:.1f} minutes.")


def summary(metrics: Mapping[str, Any], output: Path) -> None:
    """The figures that matter, and where to look."""
    table = Table(title="What was learned, on picture regions that training never saw")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("baseline", justify="right")
    table.add_row(
        "PSNR of reconstructions; baseline: mean colour",
        f"{metrics['heldout_psnr']:.2f} dB",
        f"{metrics['mean_colour_psnr']:.2f} dB",
    )
    table.add_row("share of codes in use", f"{metrics['codebook_usage_heldout']:.0%}", "")
    table.add_row("the same in training", f"{metrics['codebook_usage_training']:.0%}", "")
    table.add_row(
        "nats per code; baseline: unigrams",
        f"{metrics['nll_per_code']:.3f}",
        f"{metrics['unigram_cross_entropy']:.3f}",
    )
    _console.print(table)
    say(f"{metrics['seconds']['total']:.0f} s in all. Look at {output / 'index.html'}")
