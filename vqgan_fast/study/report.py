"""What a study says: tables in Markdown, and the page with them and the pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.pretrained import replacing
from .measure import nll_at
from .pictures import PICTURES, SIDE

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
        f" {_listed(worse)} trained for too short a time to get above it." if worse else ""
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


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: f2, f2 and f8, or f2, f8 and f16."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, align, *rows))
