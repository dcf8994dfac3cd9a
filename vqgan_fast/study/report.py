"""What a study says: tables in Markdown, plots, sheets of pictures, and the page with all of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data import to_model_range
from ..models import LatentTransformer
from ..models.latent_transformer import load_first_stage
from ..models.pretrained import replacing
from ..report.pictures import beside, labelled, stack, to_picture
from ..sampling import sample
from .measure import held_out_pictures, nll_at
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
INTRODUCTION = """\
# The paper's comparisons

Written by `make study`, which is `vqgan-fast study --page docs/study.md`, with every figure, plot
and picture below.
"""


def write_page(results: Mapping[str, Any], path: Path, pictures: Path) -> None:
    """The Markdown page.

    Args:
        results: what study.json holds.
        path: the page.
        pictures: the folder of its pictures.
    """
    where = Path(os.path.relpath(pictures, path.parent))
    parts = [INTRODUCTION, results["about"]]
    for question, section in SECTIONS.items():
        if results["comparisons"].get(question):
            parts.append(section(results, where))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def equal_time(results: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """The minutes that the quickest of the compared priors took, and the nats of each by then."""
    curves = {name: results["priors"][name]["curve"] for name in results["comparisons"]["priors"]}
    minutes = min(curve[-1]["minutes"] for curve in curves.values())
    minutes = max(minutes, *(curve[0]["minutes"] for curve in curves.values()))
    return minutes, {name: nll_at(curve, minutes) for name, curve in curves.items()}


def _priors(results: Mapping[str, Any], where: Path) -> str:
    minutes, then = equal_time(results)
    rows = []
    for name in results["comparisons"]["priors"]:
        found = results["priors"][name]
        rows.append([
            found["transformer"], f"{found['parameters']:,}", str(found["steps"]),
            f"{found['minutes']:.2f}", f"{found['nll']:.3f}", f"{then[name]:.3f}",
        ])  # fmt: skip
    sizes = [results["priors"][name]["parameters"] for name in results["comparisons"]["priors"]]
    apart = max(sizes) / min(sizes) - 1
    first = results["priors"][results["comparisons"]["priors"][0]]
    unigram = f" (unigrams: {first['unigram']:.3f})" if "unigram" in first else ""
    header = [
        "second stage", "weights", "steps", "minutes", "nats per code, same steps",
        f"after {minutes:.2f} min",
    ]  # fmt: skip
    return f"""\
## Transformer or PixelSNAIL (Section 4.1)

The same codes ({first["first_stage"]}), weights within {apart:.1%} of each other. Held-out nats per
code{unigram}, after the same number of steps and after the time that
the quicker one took.

{_table(header, rows)}

![Held-out nats per code against steps and minutes]({where / PICTURES["priors"]})
"""


def _factors(results: Mapping[str, Any], where: Path) -> str:
    rows = []
    worse = []  # than a picture of one colour
    for name in results["comparisons"]["factors"]:
        prior = results["priors"][name]
        stage = results["first_stages"][prior["first_stage"]]
        if stage["psnr"] < stage["mean_colour_psnr"]:
            worse.append(f"f{stage['factor']}")
        rows.append([
            f"f{stage['factor']}", f"{stage['crop_pixels']} px", str(stage["codebook_size"]),
            f"{stage['codebook_usage']:.0%}", f"{stage['psnr']:.2f}",
            f"{stage['mean_colour_psnr']:.2f}", f"{stage['ssim']:.3f}", f"{prior['nll']:.3f}",
            f"{prior['unigram']:.3f}" if "unigram" in prior else "",
            f"{prior['bits_per_pixel']:.3f}",
        ])  # fmt: skip
    header = [
        "factor", "crop", "codes", "in use", "PSNR, dB", "of mean colours", "SSIM",
        "nats per code", "unigrams", "bits per pixel",
    ]  # fmt: skip
    trained_less = (
        f" {' and '.join(worse)} trained for too short a time to get above it." if worse else ""
    )
    return f"""\
## How much context a code has (Section 4.3)

The transformer sees a grid of the same number of codes whatever the factor, so the crop grows with
it. f1 has no network: its codes are colours found by k-means. Beside the PSNR stands that of the
crops each painted in its own mean colour.{trained_less}

{_table(header, rows)}

![Samples of every factor, from crops of its size]({where / PICTURES["samples"]})

*Samples, one row for each factor. All are shown {SIDE} pixels wide, whatever part of a picture they
cover.*

![Reconstruction, likelihood]({where / PICTURES["factors"]})
"""


def _losses(results: Mapping[str, Any], where: Path) -> str:
    rows = []
    for name in results["comparisons"]["losses"]:
        found = results["first_stages"][name]
        rows.append([
            f"{name}: {found['loss']}", f"{found['psnr']:.2f}", f"{found['ssim']:.3f}",
            f"{found['lpips']:.3f}" if "lpips" in found else "",
            f"{found['sharpness']:.2f}", f"{found['codebook_usage']:.0%}",
            f"{found['perplexity']:.0f}",
        ])  # fmt: skip
    header = ["loss", "PSNR, dB", "SSIM", "LPIPS", "sharpness", "codes in use", "perplexity"]
    return f"""\
## VQ-VAE's loss or VQGAN's (Section 4.4)

The same network and steps: squared error alone, or L1 with a perceptual loss and a discriminator.
Sharpness is the mean difference of neighbouring pixels over that of the originals: 1 is as sharp as
they are, and squared errors blur. Perceptual distance: {results["perceptual"]}.

{_table(header, rows)}

![Held-out crops and their reconstructions]({where / PICTURES["losses"]})
"""


def _hierarchies(results: Mapping[str, Any], where: Path) -> str:
    rows = []
    for name in results["comparisons"]["hierarchies"]:
        found = results["first_stages"][name]
        codes = found["codes"] / found["pictures"]
        bits = codes * math.log2(found["codebook_size"]) / found["crop_pixels"] ** 2
        rows.append([
            name, str(found["levels"]), f"{codes:.0f}", f"{bits:.3f}", f"{found['psnr']:.2f}",
            f"{found['ssim']:.3f}", f"{found['lpips']:.3f}" if "lpips" in found else "",
            f"{found['codebook_usage']:.0%}",
        ])  # fmt: skip
    header = [
        "first stage", "levels", "codes a crop", "bits per pixel", "PSNR, dB", "SSIM", "LPIPS",
        "codes in use",
    ]  # fmt: skip
    return f"""\
## One level of codes or two (VQ-VAE-2)

Two levels as in VQ-VAE-2 (Razavi et al. 2019): an upper grid half as wide and high, and a lower one
that is quantised in the knowledge of it. Bits per pixel are those of log2 K bits a code, as no
transformer is trained on two levels.

{_table(header, rows)}

![Held-out crops and their reconstructions]({where / PICTURES["hierarchies"]})
"""


def _orderings(results: Mapping[str, Any], where: Path) -> str:
    names = results["comparisons"]["orderings"]
    best = min(names, key=lambda name: results["priors"][name]["nll"])
    lowest = results["priors"][best]["ordering"].replace("_", " ")
    rows = [
        [
            results["priors"][name]["ordering"].replace("_", " "),
            f"{results['priors'][name]['nll']:.3f}",
            f"{results['priors'][name]['training_nll']:.3f}",
        ]
        for name in names
    ]
    return f"""\
## The order of codes (supplement of the paper)

One transformer for each order, on the same codes. Lowest here: {lowest}; in the paper: row major.

{_table(["order", "held-out nats per code", "in training"], rows)}

![Held-out nats per code against steps]({where / PICTURES["orderings"]})
"""


SECTIONS = {
    "priors": _priors,
    "factors": _factors,
    "losses": _losses,
    "hierarchies": _hierarchies,
    "orderings": _orderings,
}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, align, *rows))


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
        save(stack(rows), folder / PICTURES["samples"])
    for question in OF_FIRST_STAGES:
        if plan.comparisons.get(question):
            sheet = reconstructions([plan.first_stages[n] for n in plan.comparisons[question]])
            save(sheet, folder / PICTURES[question])


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


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
