"""What a study shows: plots, and sheets of samples and reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data import to_model_range
from ..models import LatentTransformer
from ..models.latent_transformer import load_first_stage
from ..models.pretrained import replacing
from ..report.pictures import beside, labelled, stack, to_picture, write_picture
from ..sampling import sample
from .measure import held_out_pictures
from .plan import OF_FIRST_STAGES, FirstStage, Plan

SHOWN = 5  # pictures in a row of a sheet
SIDE = 128  # pixels of each, whatever it was drawn at
DRAW = {"temperature": 0.9, "top_p": 0.95}
PICTURES = {
    "priors": "study_priors.png",
    "factors": "study_factors.png",
    "samples": "study_samples.png",
    "losses": "study_losses.png",
    "hierarchies": "study_hierarchies.png",
    "orderings": "study_orderings.png",
}


def draw_plots(results: Mapping[str, Any], folder: Path) -> None:
    """The plots of the comparisons that a study makes."""
    comparisons, priors = results["comparisons"], results["priors"]
    for question, key, against in (
        ("priors", "transformer", ("step", "minutes")),
        ("orderings", "ordering", ("step",)),
    ):
        found = [priors[name] for name in comparisons.get(question, [])]
        if found:
            curves = {prior[key]: prior["curve"] for prior in found}
            _curves(folder / PICTURES[question], curves, against)
    if comparisons.get("factors"):
        _bars(folder / PICTURES["factors"], results)


def _curves(path: Path, curves: Mapping[str, Sequence[dict]], against: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(against), 4), layout="constrained")
    panels = figure.subplots(1, len(against), squeeze=False)[0]
    for axes, key in zip(panels, against, strict=True):
        for label, curve in curves.items():
            points = [point[key] for point in curve], [point["nll"] for point in curve]
            axes.plot(*points, marker=".", label=label.replace("_", " "))
        axes.set_xlabel("steps" if key == "step" else "minutes of training")
        axes.set_ylabel("held-out nats per code")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _bars(path: Path, results: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    names = results["comparisons"]["factors"]
    priors = [results["priors"][name] for name in names]
    stages = [results["first_stages"][prior["first_stage"]] for prior in priors]
    labels = [f"f{stage['factor']}" for stage in stages]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    quality, likelihood = figure.subplots(1, 2)
    quality.bar(labels, [stage["psnr"] for stage in stages], color="#3b6ea5")
    quality.set_ylabel("PSNR of reconstructions, dB")
    likelihood.bar(labels, [prior["bits_per_pixel"] for prior in priors], color="#c8553d")
    likelihood.set_yscale("log")
    likelihood.set_ylabel("bits per pixel of the codes")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def draw_sheets(plan: Plan, folder: Path) -> None:
    """Samples of every factor, and reconstructions of the first stages that are compared."""
    rows = []
    for name in plan.comparisons.get("factors", []):
        model = LatentTransformer.from_pretrained(Path(plan.priors[name].run.run_dir) / "model")
        images = sample(model, seeds=range(SHOWN), **DRAW)
        factor = model.first_stage_model.downsampling_factor
        rows.append(labelled(beside([_shown(image) for image in images]), f"f{factor}"))
    if rows:
        write_picture(stack(rows), folder / PICTURES["samples"])
    for question in OF_FIRST_STAGES:
        if plan.comparisons.get(question):
            sheet = reconstructions([plan.first_stages[n] for n in plan.comparisons[question]])
            write_picture(sheet, folder / PICTURES[question])


def reconstructions(stages: Sequence[FirstStage]) -> Image.Image:
    """Held-out crops above what each first stage makes of them."""
    rows = []
    for stage in stages:
        pictures = held_out_pictures(stage)
        chosen = pictures[torch.linspace(0, len(pictures) - 1, min(SHOWN, len(pictures))).long()]
        x = to_model_range(chosen)
        with torch.inference_mode():
            x_hat = load_first_stage(Path(stage.run.run_dir) / "vqgan")(x)[0]
        if not rows:
            rows.append(labelled(beside([to_picture(image) for image in x]), "held out"))
        rows.append(labelled(beside([to_picture(image) for image in x_hat]), stage.name))
    return stack(rows)


def _shown(image: torch.Tensor) -> Image.Image:
    picture = to_picture(image)
    enlarged = picture.width < SIDE
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC
    return picture.resize((SIDE, SIDE), how)
