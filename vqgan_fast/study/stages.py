"""Training what a plan asks for and is not there yet."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data import ImageStream, list_images, to_model_range, tokenize_images, write_codes
from ..models import ColourCodes
from ..models.latent_transformer import load_first_stage
from ..report.curves import read_metrics
from ..train import TransformerRun, VQGANRun, train
from ..train.config import DataConfig, Run
from .plan import FirstStage, Plan, Prior

PIXELS = 100_000  # that k-means looks at
BATCH = 16


def is_finished(run: Run) -> bool:
    """Whether a run has made all its steps."""
    metrics = Path(run.run_dir) / "metrics.jsonl"
    if not metrics.is_file():
        return False
    entries = read_metrics(metrics)
    return bool(entries) and entries[-1]["step"] >= run.optim.steps


def make_first_stage(stage: FirstStage) -> None:
    """Trains a first stage, or goes on with it; does nothing where it is finished."""
    if stage.colours is None:
        train_to_the_end(stage.run)
        return
    folder = Path(stage.run.run_dir) / "vqgan"
    if not (folder / "config.json").is_file():
        data = stage.run.data
        pixels = training_pixels(data, stage.run.seed)
        ColourCodes.fit(pixels, stage.colours, data.size, stage.run.seed).save_pretrained(folder)


def make_codes(plan: Plan, name: str) -> None:
    """Writes the codes of training crops, if the plan has them written and they are not there."""
    path = plan.codes_file(name)
    if plan.crops_per_picture is None or path.is_file():
        return
    run = plan.first_stages[name].run
    model = load_first_stage(Path(run.run_dir) / "vqgan")
    tokens, _ = tokenize_images(
        model,
        training_stream(run.data, run.seed),
        crops_per_image=plan.crops_per_picture,
        batch_size=min(BATCH, plan.crops_per_picture),
    )
    write_codes(path, tokens, model.quantize.codebook)


def make_prior(plan: Plan, prior: Prior) -> None:
    """Trains a second stage, or goes on with it; does nothing where it is finished."""
    if plan.crops_per_picture is not None:
        prior.run.data.train, prior.run.data.codes = None, str(plan.codes_file(prior.first_stage))
    train_to_the_end(prior.run)


def train_to_the_end(run: VQGANRun | TransformerRun) -> None:
    """From where a run is; does nothing where it is finished."""
    if is_finished(run):
        return
    folder = Path(run.run_dir)
    run.resume = folder.is_dir() and any(folder.iterdir())
    train(run)


def training_stream(data: DataConfig, seed: int) -> ImageStream:
    """Random crops of the training pictures, picture after picture."""
    return ImageStream(
        list_images(data.train), size=data.size, resize=data.resize, crop=data.crop,
        flip=data.flip, region=data.train_region, seed=seed, shuffle=False, cache=data.cache,
    )  # fmt: skip


def training_pixels(data: DataConfig, seed: int) -> torch.Tensor:
    """About PIXELS of them, (N, 3) in [-1, 1], of crops of all pictures in turn."""
    stream = training_stream(data, seed)
    crops = [stream[position].image for position in range(-(-PIXELS // data.size**2))]
    return to_model_range(torch.stack(crops)).movedim(1, -1).flatten(0, -2).contiguous()
