"""The loop that trains either stage: steps, the log, checkpoints, and how a run ends.

What a step is, which figures there are and what is exported is the stage's own: `stage1`, `stage2`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vqgan_fast.data import CropMap
from vqgan_fast.data.images import PictureFile

from .checkpoint_writer import CheckpointWriter
from .config import Run
from .data_wait import DataWait
from .distributed import Ranks
from .first_checkpoint import first_checkpoint
from .meter import Meter
from .run_folder import CHECKPOINTS, TrainingResult, create_run_folder
from .run_log import RunLog
from .skipped import SkippedFiles
from .stopping import StopRequest
from .training_state import TrainingState, check_finite


class Stage(Protocol):
    """What differs between the stages. Every rank makes the same calls in the same order."""

    loss_name: str  # of the figure that must stay finite
    rate: float  # of learning
    meter: Meter
    state: TrainingState
    files: Sequence[PictureFile]  # those that may turn out to be unreadable
    kinds: Sequence[CropMap]  # of the maps that go with them

    def start(self, samples: int) -> Iterator[Any]:
        """Make ready for the first step; the batches after so many samples, with `skipped` each."""

    def describe(self) -> str:
        """What is trained, for the log."""

    def step(self, step: int, next_batch: Callable[[], Any]) -> None:
        """One step of the optimizer, numbered from 0, on `optim.accumulate` batches."""

    def figures(self, done: int) -> tuple[dict[str, float], str | None]:
        """What the log says of training besides the meter's means, and a warning if one is due."""

    def held_out_figures(self) -> dict[str, float]:
        """What the log says of held-out data, if there are any."""

    def start_interval(self) -> None:
        """Begin the next interval of the log."""

    def pictures(self) -> list[Tensor]:
        """Rows of uint8 pictures (B, 3, S, S)."""

    def export(self, run_dir: Path) -> None:
        """Write the model itself, which rank 0 does."""


def train_stage(stage: Stage, config: Run, checkpoint: Path | None, ranks: Ranks) -> TrainingResult:
    """Train from a checkpoint, or from the first step on; every rank calls it."""
    optim, cadence = config.optim, config.log
    torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks
    first, samples = (0, 0) if checkpoint is None else stage.state.restore(checkpoint)
    run_dir = create_run_folder(config, ranks)
    wait = DataWait(ranks)
    source = wait.watch(stage.start(samples))
    samples_per_step = config.data.batch_size * ranks.world_size * optim.accumulate
    with (
        RunLog(run_dir, cadence, first, optim.steps, samples_per_step, ranks) as log,
        StopRequest(optim.max_minutes, ranks) as stop,
        CheckpointWriter(
            run_dir / CHECKPOINTS, cadence.keep_checkpoints, ranks,
            cadence.checkpoint_in_background,
        ) as writer,
    ):  # fmt: skip
        skipped = SkippedFiles(stage.files, stage.kinds, ranks, log.warn)
        log.say(stage.describe())
        stop.reserve_seconds = first_checkpoint(
            stage.state, writer, checkpoint, optim.max_minutes, log
        )
        loop = _Loop(
            stage, config, ranks, run_dir, log, stop, writer, skipped, wait, source, first, samples,
            samples_per_step,
        )  # fmt: skip
        loop.run()
        writer.finish()
        if stop.warning():
            log.warn(stop.warning())
        log.farewell(stop.reason())
    stop.raise_if_interrupted()
    return TrainingResult(run_dir, loop.done, log.last)


@dataclass
class _Loop:
    """The steps of a run, and what comes between them."""

    stage: Stage
    config: Run
    ranks: Ranks
    run_dir: Path
    log: RunLog
    stop: StopRequest
    writer: CheckpointWriter
    skipped: SkippedFiles
    wait: DataWait
    source: Iterator[Any]
    done: int  # finished steps
    samples: int  # that they have seen, of all ranks
    samples_per_step: int

    def run(self) -> None:
        """To the last step, or until the run is to stop."""
        cadence, steps = self.config.log, self.config.optim.steps
        for step in range(self.done, steps):
            self.stage.step(step, self._next_batch)
            self.done, self.samples = step + 1, self.samples + self.samples_per_step
            self.log.advance()
            stopping = self.stop.agreed() or self.done == steps
            if stopping or self.done % cadence.every == 0:
                self._log_figures()
            if self.done % cadence.every == 0:
                self.stage.start_interval()
            if stopping or self.done % cadence.images_every == 0:
                self.log.pictures(self.done, self.stage.pictures())
            if stopping or self.done % cadence.checkpoint_every == 0:
                self._save()
            if stopping:
                break

    def _next_batch(self) -> Any:
        batch = next(self.source)
        self.skipped.add(batch.skipped)
        return batch

    def _log_figures(self) -> None:
        figures, warning = self.stage.figures(self.done)
        values = {
            **self.stage.meter.means(self.ranks), **figures,
            "skipped_images": self.skipped.report(), "data_wait": self.wait.share(),
            **self.stage.held_out_figures(),
        }  # fmt: skip
        self.log.metrics(self.done, {**values, "lr": self.stage.rate, "minutes": self.stop.minutes})
        if warning is not None:
            self.log.warn(warning)
        check_finite(self.stage.loss_name, values[self.stage.loss_name], self.done)

    def _save(self) -> None:
        before = self.stop.minutes
        self.stage.state.save(self.writer, self.done, self.samples)
        self.stage.export(self.run_dir)
        self.stop.reserve_seconds = max(self.writer.seconds, 60 * (self.stop.minutes - before))
