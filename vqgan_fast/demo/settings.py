"""What the demo trains: its two configuration files, filled in for this run and machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch

from .. import info
from ..losses import PerceptualLoss, PerceptualWeightsError
from ..models import GPT
from ..train import ConfigError, TransformerRun, VQGANRun, load_config
from ..train.config import LossConfig
from .folder import LIST_FILE


class Perceptual(NamedTuple):
    """What the perceptual loss really is; ``note`` says it aloud where it is not the real one."""

    description: str
    note: str


def load_settings(
    output: Path, vqgan_overrides: Sequence[str], transformer_overrides: Sequence[str]
) -> tuple[VQGANRun, TransformerRun]:
    """Both configurations, so that a mistake in either is known before the first minute is spent.

    Raises:
        ConfigError: a setting that cannot be used, named.
    """
    data = [f"data.{name}={_quoted(output / LIST_FILE)}" for name in ("train", "validation")]
    vqgan_run = _load("demo_vqgan.yaml", output / "stage1", [*data, *vqgan_overrides])
    # The folder that stage 1 will fill must exist already for its name to be accepted.
    first_stage = f"first_stage={_quoted(output)}"
    transformer_run = _load(
        "demo_transformer.yaml", output / "stage2", [*data, first_stage, *transformer_overrides]
    )
    if not (isinstance(vqgan_run, VQGANRun) and isinstance(transformer_run, TransformerRun)):
        raise ConfigError("stage is fixed in the demo; take it out of the settings")
    transformer_run.first_stage = str(output / "stage1")
    return vqgan_run, transformer_run


def settle_perceptual_loss(loss: LossConfig) -> Perceptual:
    """Decides `perceptual_weights: auto` in `loss`, in place, and says what was decided.

    Raises:
        PerceptualWeightsError: pretrained weights were asked for and cannot be had.
    """
    if loss.perceptual_weight == 0:
        return Perceptual("none", "")
    reason = "as was asked for."
    if loss.perceptual_weights != "random":
        try:
            description = PerceptualLoss(loss.perceptual_net, "pretrained").description
            return Perceptual(description, "")
        except PerceptualWeightsError:
            if loss.perceptual_weights == "pretrained":
                raise
        reason = (
            "because the weights of a network trained on ImageNet are not on this machine and "
            "could not be fetched."
        )
    loss.perceptual_weights = "random"
    description = PerceptualLoss(loss.perceptual_net, "random").description
    return Perceptual(
        description,
        f"The perceptual loss of this demo runs on RANDOM features, {reason} Pictures come out "
        "less crisp than with trained features, VGG16's above all, which a real training run "
        "should use.",
    )


def code_grid(run: VQGANRun) -> int:
    """Side of the grid of codes of a training crop."""
    return run.data.size // 2 ** (len(run.model.ch_mult) - 1)


def untrained_gpt(vqgan_run: VQGANRun, transformer_run: TransformerRun) -> GPT:
    """A transformer of the size that stage 2 will train, to see how fast it is here."""
    length = code_grid(vqgan_run) ** 2 + 1
    return GPT(vqgan_run.model.codebook_size, length, **vars(transformer_run.gpt)).eval()


def versions() -> dict[str, str]:
    """What the figures of this demo were made with."""
    return {
        "vqgan_fast": info.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }


def _load(name: str, run_dir: Path, overrides: Sequence[str]) -> VQGANRun | TransformerRun:
    path = files("vqgan_fast") / "configs" / name
    return load_config(str(path), [f"run_dir={_quoted(run_dir)}", *overrides])


def _quoted(path: Path) -> str:
    """A path as YAML reads it back, whatever characters it has."""
    return json.dumps(str(path))
