"""What a run tells: numbers, pictures and messages, written by the main rank only."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vqgan_fast.models.pretrained import replacing

from .config import LogConfig
from .distributed import Ranks

METRICS, IMAGES, TENSORBOARD = "metrics.jsonl", "images", "tensorboard"
OTHER_EPOCH = (
    "the rest of this epoch is another one, in which pictures may come twice or not at all"
)


def say(message: str) -> None:
    """One line for the user, on stderr, beside the progress bar."""
    tqdm.write(message, file=sys.stderr)


class RunLog:
    """metrics.jsonl, TensorBoard, picture grids and the progress bar of one run.

    Args:
        run_dir: the run's folder.
        first: finished steps at the start; entries of later steps are dropped from metrics.jsonl.
        total: steps of the whole run.
        samples_per_step: of all ranks together.
    """

    def __init__(
        self,
        run_dir: Path,
        config: LogConfig,
        first: int,
        total: int,
        samples_per_step: int,
        ranks: Ranks,
    ) -> None:
        self.run_dir, self.total, self.samples_per_step = run_dir, total, samples_per_step
        self.is_main = ranks.is_main
        self.last: dict[str, float] = {}
        self._writer = self._bar = None
        self._tick = (time.monotonic(), first)
        if not self.is_main:
            return
        self.last = truncate_metrics(run_dir / METRICS, first)
        (run_dir / IMAGES).mkdir(exist_ok=True)
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run_dir / TENSORBOARD), purge_step=first + 1)
        if config.progress:
            # Without a terminal every redraw is a line of a log file: then one in half a minute.
            interval = 0.1 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(
                total=total, initial=first, unit="step", mininterval=interval, dynamic_ncols=True
            )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            # On a full disk it fails once more: the first error says which file it was.
            with suppress(*([OSError] if kind else [])):
                self._writer.close()

    def say(self, message: str) -> None:
        """One line for the user, once and not from every rank."""
        if self.is_main:
            say(message)

    def warn(self, message: str) -> None:
        """One line that must not be missed."""
        self.say(f"WARNING: {message}")

    def farewell(self, reason: str) -> None:
        """The last words: how it ended, where things are, how to go on."""
        step = self.last.get("step", 0)
        self.say(f"{reason} at step {step}; everything is in {self.run_dir}")
        if step < self.total:
            self.say("to go on from here, give the same command with resume=true")

    def advance(self) -> None:
        """One more step is finished."""
        if self._bar is not None:
            self._bar.update()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one entry, with the speed since the last one, to metrics.jsonl and TensorBoard.

        One that a resumed run writes before its first step has no speed.
        """
        if not self.is_main:
            return
        (before, first), now = self._tick, time.monotonic()
        self._tick = (now, step)
        if step > first:
            speed = (step - first) * self.samples_per_step / max(now - before, 1e-9)
            values = {**values, "images_per_second": speed}
        self.last = {"step": step, **values}
        with open(self.run_dir / METRICS, "a", encoding="utf-8") as file:
            file.write(_line(self.last))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._bar is not None:
            shown = ("rec_loss", "nll", "val_nll", "codebook_usage")
            self._bar.set_postfix({key: f"{values[key]:.3g}" for key in shown if key in values})

    def picture_file(self, step: int) -> Path:
        """Where the pictures of a step are."""
        return self.run_dir / IMAGES / f"step_{step:06d}.png"

    def pictures(self, step: int, rows: list[Tensor]) -> None:
        """Write a grid to images/step_NNNNNN.png and TensorBoard.

        Args:
            rows: the same pictures in several versions, each uint8 (B, 3, H, W).
        """
        if not self.is_main:
            return
        grid = picture_grid(rows)
        picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
        with replacing(self.picture_file(step)) as unfinished:
            picture.save(unfinished, format="PNG")
        if self._writer is not None:
            self._writer.add_image("pictures", grid, step)


def picture_grid(rows: list[Tensor], gap: int = 2) -> Tensor:
    """One picture, uint8 (3, H', W'), of rows of pictures, each uint8 (B, 3, H, W)."""
    count, channels, height, width = rows[0].shape
    shape = (channels, len(rows) * (height + gap) - gap, count * (width + gap) - gap)
    grid = torch.full(shape, 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            grid[:, top : top + height, left : left + width] = picture
    return grid


def truncate_metrics(file: Path, step: int) -> dict[str, float]:
    """Drop what metrics.jsonl holds beyond a checkpoint's step; returns the last entry kept."""
    if not file.exists():
        return {}
    kept, damaged = [], 0
    for line in _lines(file):
        entry = _read_entry(line)
        if entry is None:
            # Without its end it is the last line of a process that was killed in the middle of it.
            damaged += line.endswith("\n") and not line.isspace()
        elif entry["step"] <= step:
            kept.append(entry)
    if damaged:
        say(f"WARNING: {file}: lines that are no entry of a step are dropped: {damaged}")
    with replacing(file) as unfinished:
        unfinished.write_text("".join(map(_line, kept)), encoding="utf-8")
    return kept[-1] if kept else {}


def last_step(file: Path) -> int:
    """The largest step with an entry in metrics.jsonl, 0 if there is none."""
    entries = map(_read_entry, _lines(file)) if file.exists() else ()
    return max((entry["step"] for entry in entries if entry is not None), default=0)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _line(entry: Mapping[str, float]) -> str:
    """An entry as JSON, which has no NaN and no infinity: null stands for them."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }
    return json.dumps(finite) + "\n"


def _read_entry(line: str) -> dict[str, float] | None:
    """An entry of metrics.jsonl; None where a line is none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None
