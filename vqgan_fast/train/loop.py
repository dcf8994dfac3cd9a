"""The loop that trains either stage: steps, the log, checkpoints, and how a run ends.

What a step is, which figures there are and what is exported is the stage's own: `stage1`, `stage2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vqgan_fast.data import CropMap
from vqgan_fast.data.images import PictureFile
from vqgan_fast.models.pretrained import CONFIG_FILE

from .agreement import start_together
from .checkpoint import MANIFEST, read_state
from .checkpoint_writer import CheckpointWriter
from .config import Run
from .data_wait import DataWait
from .distributed import Ranks, join_ranks
from .first_checkpoint import first_checkpoint
from .meter import Meter
from .run_folder import CHECKPOINTS, TrainingResult, create_run_folder, find_checkpoint
from .run_lock import locked
from .run_log import METRICS, RunLog
from .skipped import SkippedFiles
from .stopping import StopRequest
from .together import RunWriteError, ask_main, write_together
from .training_state import TrainingState, check_finite


class Stage(Protocol):
    """What differs between the stages. Every rank makes the same calls in the same order."""

    loss_name: str  # of the figure that must stay finite
    export_name: str  # of the exported model's folder in the run's
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

    def export(self) -> Callable[[Path], None]:
        """What writes the model itself into a folder; rank 0 calls it."""


def train(make_stage: Callable[[Any, Ranks], Stage], config: Run) -> TrainingResult:
    """Train what `make_stage` makes of the configuration, on all ranks of this launch."""
    with (
        join_ranks(config.device, config.rank_timeout_minutes) as ranks,
        locked(config.run_dir, ranks),
    ):
        config = start_together(config, ranks)
        checkpoint = find_checkpoint(config, ranks)  # and may the run's folder be used?
        return train_from(checkpoint, make_stage(config, ranks), config, ranks)


def train_from(checkpoint: Path | None, stage: Stage, config: Run, ranks: Ranks) -> TrainingResult:
    """Train from a checkpoint, or from the first step on; every rank calls it."""
    optim, cadence = config.optim, config.log
    torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks
    first, samples = (0, 0) if checkpoint is None else stage.state.restore(checkpoint)
    run_dir = create_run_folder(config, ranks)
    wait = DataWait(ranks)
    source = wait.watch(stage.start(samples))
    samples_per_step = config.data.batch_size * ranks.world_size * optim.accumulate
    with (
        write_together(
            run_dir / METRICS,
            lambda: RunLog(run_dir, cadence, first, optim.steps, samples_per_step, ranks),
            ranks,
        ) as log,
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
        if checkpoint is not None and first > 0:
            loop.catch_up(checkpoint)
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
    held_out_seconds: float = 0.0  # that these took last
    picture_seconds: float = 0.0

    def catch_up(self, checkpoint: Path) -> None:
        """What a run that died behind its checkpoint has not written of that step."""
        late = ask_main(lambda: self._late(checkpoint), self.ranks)
        no_model, no_entry, no_pictures, ended = late
        if no_model:
            self._export()
        # Nothing was counted where an older version's checkpoint begins an interval.
        if no_entry and self.stage.meter.means(self.ranks):
            self._log(self._figures(), with_held_out=True)
        if no_pictures:
            self._write_pictures()
        if ended:
            self.stage.start_interval()

    def _late(self, checkpoint: Path) -> list[bool]:
        """Whether the exported model, the entry and the pictures of the step are missing; and
        whether an interval of the log ends there, be it one of the run as it was until now."""
        every = self.config.log.every
        before = read_state(checkpoint).get("log_every", every)
        ended = self.done % before == 0 or self.done % every == 0
        no_entry = (ended or self._logged(self.done)) and self.log.last.get("step") != self.done
        no_pictures = self._pictured(self.done) and not self.log.picture_file(self.done).is_file()
        folder = self.run_dir / self.stage.export_name
        return [is_older(folder, checkpoint), no_entry, no_pictures, ended]

    def run(self) -> None:
        """To the last step, or until the run is to stop.

        The checkpoint of a step comes before its held-out figures and pictures, which may take
        longer than a stopped run is given; `catch_up` writes what is then missing.
        """
        cadence, steps = self.config.log, self.config.optim.steps
        for step in range(self.done, steps):
            self.stage.step(step, self._next_batch)
            self.done, self.samples = step + 1, self.samples + self.samples_per_step
            self.log.advance()
            stopping = self.stop.agreed(self._seconds_ahead()) or self.done == steps
            logged = self._logged(self.done)
            figures = self._figures() if stopping or logged else None
            if stopping or self.done % cadence.checkpoint_every == 0:
                self._save()
            if figures is not None:
                self._log(figures, with_held_out=logged)
            if self._pictured(self.done):
                self._write_pictures()
            self._start_interval()
            if stopping:
                break

    def _logged(self, done: int) -> bool:
        return done % self.config.log.every == 0 or done == self.config.optim.steps

    def _pictured(self, done: int) -> bool:
        return done % self.config.log.images_every == 0 or done == self.config.optim.steps

    def _seconds_ahead(self) -> float:
        """What comes between now and the last checkpoint if the run does not stop now."""
        now, after = self.done, self.done + 1
        saved = now % self.config.log.checkpoint_every == 0
        return (
            saved * self.stop.reserve_seconds
            + (self._logged(now) + self._logged(after)) * self.held_out_seconds
            + (self._pictured(now) + self._pictured(after)) * self.picture_seconds
        )

    def _next_batch(self) -> Any:
        batch = next(self.source)
        self.skipped.add(batch.skipped)
        return batch

    def _start_interval(self) -> None:
        if self.done % self.config.log.every == 0:
            self.stage.start_interval()

    def _figures(self) -> dict[str, float]:
        """Those of training, which take no time; a broken loss ends the run before it is saved."""
        figures, warning = self.stage.figures(self.done)
        values = {
            **self.stage.meter.means(self.ranks), **figures,
            "skipped_images": self.skipped.report(), "data_wait": self.wait.share(),
        }  # fmt: skip
        if warning is not None:
            self.log.warn(warning)
        loss = values[self.stage.loss_name]
        if not math.isfinite(loss):
            self._log(values, with_held_out=False)
        check_finite(self.stage.loss_name, loss, self.done)
        return values

    def _log(self, values: dict[str, float], with_held_out: bool) -> None:
        if with_held_out:
            before = self.stop.minutes
            values = {**values, **self.stage.held_out_figures()}
            self.held_out_seconds = 60 * (self.stop.minutes - before)
        values = {**values, "lr": self.stage.rate, "minutes": self.stop.minutes}
        write_together(
            self.run_dir / METRICS, lambda: self.log.metrics(self.done, values), self.ranks
        )

    def _write_pictures(self) -> None:
        before = self.stop.minutes
        rows = self.stage.pictures()
        write_together(
            self.log.picture_file(self.done), lambda: self.log.pictures(self.done, rows), self.ranks
        )
        self.picture_seconds = 60 * (self.stop.minutes - before)

    def _save(self) -> None:
        before = self.stop.minutes
        every = self.config.log.every
        self.stage.state.save(self.writer, self.done, self.samples, log_every=every)
        self._export()
        self.stop.reserve_seconds = max(self.writer.seconds, 60 * (self.stop.minutes - before))

    def _export(self) -> None:
        folder, write = self.run_dir / self.stage.export_name, self.stage.export()
        try:
            write_together(
                f"the model {folder}", lambda: write(folder) if self.ranks.is_main else None,
                self.ranks, f"The checkpoint of step {self.done} is whole. ",
            )  # fmt: skip
        except RunWriteError:
            self.writer.finish()  # one in the background is whole now, or says itself that it isn't
            raise


def is_older(folder: Path, checkpoint: Path) -> bool:
    """Whether an exported model is missing, in part too, or was written before a checkpoint."""
    if not (folder / CONFIG_FILE).is_file():
        return True
    times = [file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")]
    return min(times, default=0) < (checkpoint / MANIFEST).stat().st_mtime_ns
