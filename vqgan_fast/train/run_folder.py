"""The folder of a run: nothing in it is overwritten, and a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from .checkpoint import newest_checkpoint, read_state
from .config import ConfigError, Run
from .distributed import Ranks
from .launch import LAUNCH, is_restart, note_launch
from .load_config import expand, save_config
from .run_lock import LOCK
from .run_log import METRICS, OTHER_EPOCH, last_step, say
from .stopping import too_short
from .together import ask_main, write_together

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"
# What a run's folder holds before its configuration; .nfs*: files that another machine has open.
BEGINNINGS = (LAUNCH, LOCK, f".{CONFIG}.", ".nfs")
EXPORTS = ("vqgan", "model")  # of the stages: written behind a checkpoint
# What the weights in a checkpoint were made for: another value is another run.
FIXED = (
    "stage", "model.", "gpt.", "cond", "transformer", "loss.disc_num_layers", "loss.disc_ndf",
    "loss.use_actnorm", "codebook.usage_window",
)  # fmt: skip
# But a condition's maps, and the VQGAN that encodes them, may move as the pictures may.
PLACES = (".folder", ".vqgan")


@dataclass(frozen=True)
class TrainingResult:
    """What training returns: the run's folder, its finished steps, the last entry of its log."""

    run_dir: Path
    step: int
    metrics: dict[str, float]


def find_checkpoint(config: Run, ranks: Ranks) -> Path | None:
    """See whether the run's folder may be used, and from where to go on; every rank calls it, with
    the folder `locked`.

    Returns:
        The newest checkpoint that is whole if the run is resumed, None to start from step 0.

    Raises:
        ConfigError: the folder is not empty and `resume` is off (a restart by torchrun needs none),
            it is no run's folder, or it is the folder of a run with another model, or its
            checkpoints are gone, or the time allowed is shorter than the last one took.
        CheckpointError: there are checkpoints, and every one is damaged.
        OSError: rank 0 cannot look into the folder.
    """
    # Rank 0 decides: without a --rdzv-id each machine's torchrun has a name of its own, and on a
    # network's file system each machine may see another state of the folder.
    return ask_main(lambda: _find_checkpoint(config, Path(config.run_dir)), ranks)


def _find_checkpoint(config: Run, run_dir: Path) -> Path | None:
    if _is_new(run_dir):
        return None
    if not config.resume and not is_restart(run_dir):
        raise ConfigError(
            f"run_dir {run_dir} is not empty, and a run never overwrites another: choose "
            "another run_dir, or go on from its newest checkpoint with resume=true"
        )
    for change in _check_resumable(config, run_dir):
        say(change)
    checkpoint = newest_checkpoint(run_dir / CHECKPOINTS, lambda text: say(f"WARNING: {text}"))
    if checkpoint is None:
        _check_nothing_lost(run_dir)
        say(f"{run_dir} has no checkpoint yet: starting from step 0")
        return None
    say(f"resuming from {checkpoint}")
    limit, seconds = config.optim.max_minutes, read_state(checkpoint).get("seconds", 0.0)
    if limit is not None and seconds > 60 * limit:
        raise ConfigError(too_short(limit, seconds))
    return checkpoint


def _check_nothing_lost(run_dir: Path) -> None:
    """Refuse to start from step 0 in the folder of a run that has written a checkpoint.

    One that was ended before its first has no exported model, and no entry behind the step that
    the first was due at: one of that very step may be of a loss that was no longer finite.
    """
    left = [str(run_dir / name) for name in EXPORTS if (run_dir / name).exists()]
    due = OmegaConf.select(OmegaConf.load(run_dir / CONFIG), "log.checkpoint_every")
    step = last_step(run_dir / METRICS)
    if isinstance(due, int) and step > due:
        left.append(f"{run_dir / METRICS} up to step {step}")
    if left:
        raise ConfigError(
            f"run_dir {run_dir} cannot be resumed: {run_dir / CHECKPOINTS} holds no checkpoint, "
            f"and starting from step 0 would replace {' and '.join(left)}. Put the checkpoints "
            "back, or choose another run_dir"
        )


def create_run_folder(config: Run, ranks: Ranks) -> Path:
    """Fill the run's folder with the launch it belongs to and the configuration as it is used.

    In this order: a launch that is ended in between knows the folder again, whatever is in it.

    Raises:
        RunWriteError: on every rank, if it cannot be written.
    """
    run_dir = Path(config.run_dir)

    def write() -> None:
        if ranks.is_main:
            note_launch(run_dir)
            save_config(config, run_dir / CONFIG)
            (run_dir / CHECKPOINTS).mkdir(exist_ok=True)

    write_together(run_dir / CONFIG, write, ranks)
    return run_dir


def _is_new(run_dir: Path) -> bool:
    """Whether a folder holds at most what a start that was ended in the middle leaves behind."""
    left = {path for path in run_dir.iterdir() if not path.name.startswith(BEGINNINGS)}
    if left == {run_dir / CHECKPOINTS} and (run_dir / CHECKPOINTS).is_dir():
        return not any((run_dir / CHECKPOINTS).iterdir())
    return not left


def _check_resumable(config: Run, run_dir: Path) -> list[str]:
    """Refuse a folder that this run must not go on in; what else has changed, for the user."""
    if not (run_dir / CONFIG).is_file():
        raise ConfigError(f"run_dir {run_dir} cannot be resumed: it holds no {CONFIG} of a run")
    # A key that an older version did not know had what is now its default.
    defaults = flatten(OmegaConf.to_container(OmegaConf.structured(type(config))))
    try:
        written = expand(OmegaConf.to_container(OmegaConf.load(run_dir / CONFIG)))
        stage = written.get("stage")
        if stage is None:
            raise ValueError("it names no stage")
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"run_dir {run_dir} cannot be resumed: its {CONFIG} cannot be read ({error}); put back "
            "the configuration that the run was started with"
        ) from error
    if stage != config.stage:
        raise ConfigError(
            f"run_dir {run_dir} is a run of stage: {stage} and cannot be resumed as {config.stage}"
        )
    before = _with_resolution({**defaults, **flatten(written)})
    now = _with_resolution(flatten(OmegaConf.to_container(OmegaConf.structured(config))))
    keys = before.keys() | now.keys()
    if before.get("condition.parts"):  # what stood beside them was kept and never read
        keys = {
            k for k in keys if k.startswith("condition.parts") or not k.startswith("condition.")
        }
    changes = []
    for key in sorted(keys):
        old, new = before.get(key), now.get(key)
        if old == new or key in ("resume", "run_dir"):
            continue
        moved = key.endswith(".validation_folder") or (old and new and key.endswith(PLACES))
        if key.startswith(FIXED) and not moved:
            keep = ""
            if key == "model.resolution":
                keep = f"give {key}={old}, whatever data.size is, to keep the architecture, or "
            raise ConfigError(_refusal(run_dir, key, old, new, f"{keep}choose another run_dir"))
        change = f"resumed with {key} = {new}, until now {old}"
        if key == "seed":  # of which every epoch's order comes
            change = f"WARNING: {change}: {OTHER_EPOCH}"
        changes.append(change)
    _check_grid(before, now, run_dir)
    return changes + _check_averages(before, now, run_dir)


def _check_grid(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path) -> None:
    """A GPT has one position for each code of a crop; other transformers take any grid."""
    sizes = [values["data.size"] for values in (before, now)]
    of_pictures = before.get("data.codes") is None and now.get("data.codes") is None
    if now.get("transformer") == "gpt" and of_pictures and sizes[0] != sizes[1]:
        advice = "its positions are those of the codes of such crops; choose another run_dir"
        raise ConfigError(_refusal(run_dir, "data.size", *sizes, advice))


def _check_averages(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Averages cannot begin in the middle of a run; a warning where they end there."""
    key = "optim.ema_decay"
    old, new = before[key], now[key]
    if old is None and new is not None:
        advice = f"its checkpoints hold no averages; leave {key} out, or choose another run_dir"
        raise ConfigError(_refusal(run_dir, key, old, new, advice))
    if old is not None and new is None:
        return [
            f"WARNING: without {key}, until now {old}, the averaged weights are dropped: the next "
            "checkpoint has none, and the model that is exported is the trained one itself"
        ]
    return []


def _refusal(run_dir: Path, key: str, old: Any, new: Any, advice: str) -> str:
    return (
        f"run_dir {run_dir} was trained with {key} = {old} and cannot be resumed with {new}; "
        f"{advice}"
    )


def _with_resolution(values: dict[str, Any]) -> dict[str, Any]:
    """With the resolution that null stands for: `VQGANRun.vqgan_arguments` tells."""
    if "model.resolution" in values and values["model.resolution"] is None:
        return {**values, "model.resolution": values["data.size"]}
    return values


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; of a list of mappings their number, and each by its place."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            flat[f"{prefix}{key}"] = len(value)
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
