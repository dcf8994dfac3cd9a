"""The figures of a study, each taken on the same held-out crops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import held_out_crops, list_images, read_codes, to_model_range
from ..evaluate import ReconstructionMeasures
from ..losses import PerceptualLoss
from ..models import LatentTransformer
from ..models.latent_transformer import load_first_stage
from ..quantizers import HierarchicalQuantizer
from ..report.curves import read_metrics
from ..report.measures import code_counts, mean_colours, mean_psnr, unigram_cross_entropy
from ..train.config import LossConfig
from .plan import FirstStage, Plan, Prior

BATCH = 8


def held_out_pictures(stage: FirstStage) -> Tensor:
    """uint8 (V, 3, S, S)."""
    data = stage.run.data
    return held_out_crops(
        list_images(data.validation), size=data.size, resize=data.resize,
        region=data.validation_region, limit=data.validation_crops,
    ).images  # fmt: skip


def measure_first_stage(stage: FirstStage, perceptual: PerceptualLoss | None) -> dict[str, Any]:
    """Reconstruction of held-out crops, codebook in use, and how large and how long trained."""
    model = load_first_stage(Path(stage.run.run_dir) / "vqgan")
    pictures = held_out_pictures(stage)
    measures = ReconstructionMeasures(model, perceptual)
    reconstructions = torch.cat([measures.add(part) for part in pictures.split(BATCH)])
    x = to_model_range(pictures)
    figures: dict[str, Any] = {
        "factor": model.downsampling_factor,
        "crop_pixels": stage.run.data.size,
        "codebook_size": model.quantize.codebook_size,
        "levels": 2 if isinstance(model.quantize, HierarchicalQuantizer) else 1,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **measures.figures(),
        "sharpness": sharpness(reconstructions) / sharpness(pictures),
        "mean_colour_psnr": mean_psnr(x, mean_colours(x)),
    }
    if stage.colours is None:
        figures |= {"loss": described(stage.run.loss), **last_entry(stage.run.run_dir)}
    return figures


def described(loss: LossConfig) -> str:
    """What a first stage is trained on, in words."""
    terms = ["squared error" if loss.pixel_loss == "mse" else "L1"]
    terms += ["perceptual"] if loss.perceptual_weight else []
    return ", ".join(terms + (["discriminator"] if loss.disc_factor else []))


def sharpness(pictures: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels; of uint8 pictures (B, 3, H, W)."""
    x = pictures.float()
    return float(x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean())


def measure_prior(plan: Plan, prior: Prior) -> dict[str, Any]:
    """What a held-out code costs, in nats, and how that went down with steps and minutes."""
    model = LatentTransformer.from_pretrained(Path(prior.run.run_dir) / "model")
    stage = plan.first_stages[prior.first_stage]
    figures: dict[str, Any] = {
        "first_stage": prior.first_stage,
        "transformer": prior.run.transformer,
        "ordering": prior.run.gpt.ordering,
        "parameters": sum(parameter.numel() for parameter in model.transformer.parameters()),
        "curve": nll_curve(prior.run.run_dir),
        **last_entry(prior.run.run_dir),
    }
    factor = model.first_stage_model.downsampling_factor
    figures["bits_per_pixel"] = figures["nll"] / math.log(2) / factor**2
    if prior.run.data.codes is not None:
        counts = code_counts(
            read_codes(prior.run.data.codes).tokens, model.first_stage_model.quantize.codebook_size
        )
        with torch.inference_mode():
            codes = torch.cat(
                [
                    model.encode_to_codes(to_model_range(part))
                    for part in held_out_pictures(stage).split(BATCH)
                ]
            )
        figures["unigram"] = unigram_cross_entropy(codes, counts)
    return figures


def last_entry(run_dir: str) -> dict[str, Any]:
    """Steps, minutes, and the held-out nats per code of a run of stage 2."""
    entries = read_metrics(Path(run_dir) / "metrics.jsonl")
    found = {"steps": entries[-1]["step"], "minutes": elapsed(entries)[-1]}
    if "val_nll" in entries[-1]:
        found["nll"] = entries[-1]["val_nll"]
        found["training_nll"] = entries[-1]["nll"]
    return found


def nll_curve(run_dir: str) -> list[dict[str, float]]:
    """Held-out nats per code after each logged step, with the minutes of training until then."""
    entries = read_metrics(Path(run_dir) / "metrics.jsonl")
    return [
        {"step": entry["step"], "minutes": minutes, "nll": entry["val_nll"]}
        for entry, minutes in zip(entries, elapsed(entries), strict=True)
        if "val_nll" in entry
    ]


def elapsed(entries: list[dict[str, float]]) -> list[float]:
    """Minutes of training up to each entry; a resumed run's own clock starts from zero again."""
    total, before, minutes = 0.0, 0.0, []
    for entry in entries:
        if entry["minutes"] < before:
            total += before
        before = entry["minutes"]
        minutes.append(total + before)
    return minutes


def nll_at(curve: list[dict[str, float]], minutes: float) -> float:
    """Held-out nats per code after so many minutes, between two entries in proportion.

    Raises:
        ValueError: the curve begins later.
    """
    points = [point for point in curve if point["minutes"] <= minutes]
    if not points:
        raise ValueError(f"minutes must be at least {curve[0]['minutes']:.3g}, got {minutes:.3g}")
    here = points[-1]
    later = [point for point in curve if point["minutes"] > minutes]
    if not later:
        return here["nll"]
    share = (minutes - here["minutes"]) / (later[0]["minutes"] - here["minutes"])
    return here["nll"] + share * (later[0]["nll"] - here["nll"])
