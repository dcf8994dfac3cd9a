"""The demo from top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import held_out_crops
from ..models import VQGAN, LatentTransformer
from ..models.pretrained import replacing
from ..report.curves import draw_curves, read_metrics
from ..train import train_transformer, train_vqgan
from .budget import ENCODING_SHARE, STAGE_1_SHARE, Budget, sampling_seconds
from .console import announce, say, summary, warn
from .encoding import CODES_FILE, write_training_codes
from .folder import LIST_FILE, make_room
from .measure import encode, measure_stage1, measure_stage2
from .photos import choose_pictures, write_list
from .settings import code_grid, load_settings, settle_perceptual_loss, untrained_gpt, versions
from .show import (
    PICTURES,
    SAMPLES,
    WIDE,
    show_reconstructions,
    show_samples,
    show_wide,
    write_page,
)

HELD_OUT_CROPS, TRAINING_CROPS = 128, 256  # at most, for the figures


def run_demo(
    output: Path,
    *,
    data: Path | None = None,
    minutes: float = 8.0,
    started: float | None = None,
    vqgan_overrides: Sequence[str] = (),
    transformer_overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Train both stages, measure, sample, and write a page that shows it all.

    Args:
        output: the folder to write; an earlier demo in it is moved aside.
        data: a folder of pictures or a .txt list; None takes the photographs of scikit-image.
        minutes: for everything together; on a slow machine training stops early enough.
        started: `time.monotonic()` when the command began, by default now.
        vqgan_overrides, transformer_overrides: "key=value" settings on top of configs/demo_*.yaml.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: no time at all, or a setting that cannot be used.
        OSError: `output` holds something else, or there are no pictures.
    """
    # Room, pictures, settings, and how long the sampling at the end will take.
    budget = Budget(minutes, time.monotonic() if started is None else started)
    pictures = choose_pictures(data)
    moved = make_room(output)
    if moved is not None:
        say(f"The earlier demo in {output} is now in {moved}.")
    write_list(pictures, output / LIST_FILE)
    vqgan_run, transformer_run = load_settings(output, vqgan_overrides, transformer_overrides)
    perceptual = settle_perceptual_loss(vqgan_run.loss)
    if perceptual.note:
        warn(perceptual.note)
    window = code_grid(vqgan_run)
    wide = (window, WIDE * window)
    gpt = untrained_gpt(vqgan_run, transformer_run)
    budget.keep_for_sampling(sampling_seconds(gpt, window, SAMPLES, wide[1]))
    say(f"{len(pictures)} pictures; everything within {minutes:g} minutes, in {output}.")
    budget.seconds["start"] = round(budget.elapsed, 1)

    # Stage 1: pictures to codes and back. Stage 2: the distribution of codes, encoded once.
    vqgan_run.optim.max_minutes = budget.training_minutes(STAGE_1_SHARE)
    announce("Stage 1 learns to turn pictures into codes and back", vqgan_run.optim)
    with budget.phase("stage 1"):
        result1 = train_vqgan(vqgan_run)
    with budget.phase("encoding"):
        vqgan = VQGAN.from_pretrained(output / "stage1" / "vqgan")
        minutes_to_encode = budget.training_minutes(ENCODING_SHARE)
        crops_encoded = write_training_codes(
            vqgan, pictures, transformer_run, output / CODES_FILE, minutes_to_encode
        )
    budget.keep_for_sampling(sampling_seconds(gpt, window, SAMPLES, wide[1]))
    transformer_run.optim.max_minutes = budget.training_minutes(1.0)
    announce("Stage 2 learns which codes stand beside which", transformer_run.optim)
    with budget.phase("stage 2"):
        result2 = train_transformer(transformer_run)

    # Figures, on crops of the held-out regions and of the training regions.
    say("Measuring on regions that training never saw.")
    with budget.phase("measuring"):
        model = LatentTransformer.from_pretrained(output / "stage2" / "model")
        crops = {"size": vqgan_run.data.size, "resize": vqgan_run.data.resize}
        regions = vqgan_run.data.validation_region, vqgan_run.data.train_region
        held_out, training = (
            encode(vqgan, held_out_crops(pictures, **crops, region=region, limit=limit).images)
            for region, limit in zip(regions, (HELD_OUT_CROPS, TRAINING_CROPS), strict=True)
        )
        figures = measure_stage1(held_out, training, vqgan.quantize.codebook_size)
        figures |= measure_stage2(model, held_out, training)
        show_reconstructions(held_out, output / PICTURES["reconstructions"])

    say(f"Sampling {SAMPLES} pictures, and one {WIDE} times as wide as a training crop.")
    with budget.phase("samples"):
        show_samples(model, window, output / PICTURES["samples"])
    with budget.phase("wide picture"):
        size = show_wide(model, wide, window, output / PICTURES["wide"])

    # The report.
    entries1, entries2 = (read_metrics(output / f"stage{n}" / "metrics.jsonl") for n in (1, 2))
    with budget.phase("curves"), replacing(output / PICTURES["loss_curves"]) as temporary:
        draw_curves(
            entries1,
            entries2,
            temporary,
            mean_colour_psnr=figures["mean_colour_psnr_mean_of_crops"],
            unigram=figures["unigram_cross_entropy"],
            gan_start=vqgan_run.loss.disc_start,
        )
    budget.seconds["total"] = round(budget.elapsed, 1)
    metrics = {
        **figures,
        "codebook_usage_training": result1.metrics["codebook_usage"],
        "perplexity_training": result1.metrics["perplexity"],
        "perceptual": perceptual.description,
        "perceptual_note": perceptual.note,
        "pictures": len(pictures),
        "crop_pixels": vqgan_run.data.size,
        "grid": [window, window],
        "wide_pixels": size,
        "crops_heldout": len(held_out.images),
        "stage1": {
            "downsampling_factor": vqgan.downsampling_factor,
            "codebook_size": vqgan.quantize.codebook_size,
            "parameters": sum(p.numel() for p in vqgan.parameters()),
            "steps": result1.step,
            "batch_size": vqgan_run.data.batch_size,
            "discriminator_from_step": vqgan_run.loss.disc_start,
        },
        "stage2": {
            "parameters": sum(p.numel() for p in model.transformer.parameters()),
            "steps": result2.step,
            "batch_size": transformer_run.data.batch_size,
            "crops_encoded": crops_encoded,
        },
        "seconds": budget.seconds,
        "minutes_allowed": minutes,
        "versions": versions(),
    }
    with replacing(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    write_page(metrics, output / "index.html", output)
    summary(metrics, output)
    return metrics
