"""`vqgan-fast evaluate`: the figures of a trained model on a folder of pictures."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .evaluate_options import DISTRIBUTION, METRICS, check_options
from .evaluate_options import add_arguments as add_arguments
from .held_out import held_out_maps, is_vqgan_of_maps
from .kept_pictures import PictureFolder, check_replaceable, remove_old
from .likelihood import check_size, likelihood
from .models import choose_device, load_transformer, load_vqgan
from .outputs import refuse_existing
from .sample_files import drawn_pictures

if TYPE_CHECKING:
    import torch

    from ..evaluate import Pictures, ReconstructionMeasures

SUMMARY = "PSNR, SSIM, LPIPS, FID, codebook usage and likelihood on a folder of pictures"
DESCRIPTION = """\
Measures a run of either stage on pictures that it has not been trained on. Of each picture the
centred square is taken and resized (bilinear, antialiased), as in the paper. rFID compares the
pictures with their reconstructions, FID and the inception score take a folder of samples that
you have drawn. With a run of stage 2, also the negative log-likelihood of a code in nats, on
pictures as large as its training crops; where the run has a condition, on all crops that training
would take of these pictures, and once more with the conditions shuffled between the pictures: the
difference is what the condition tells. Of a VQGAN of maps it is how well their crops are
reconstructed: the share of the pixels with the right label, or PSNR and mean absolute error of
values in [-1, 1].

FID below some thousands of pictures says little: it falls with their number. fid, rfid and is need
torch-fidelity: pip install 'vqgan_fast[train,evaluate]'.
"""
EXAMPLES = """\
  vqgan-fast evaluate runs/photos held_out/
  vqgan-fast evaluate runs/photos held_out/ --metrics psnr ssim lpips rfid --json figures.json
  vqgan-fast evaluate runs/photos_gpt held_out/ --metrics nll fid is --samples drawn/
  vqgan-fast evaluate runs/depth held_out/ --maps held_out_depth/ --metrics nll
  vqgan-fast evaluate runs/depth_vqgan held_out/ --maps held_out_depth/
"""


def run(args: argparse.Namespace) -> None:
    from ..data import list_images
    from ..evaluate import Pictures, ReconstructionMeasures, inception_weights
    from ..losses import PerceptualLoss

    metrics = set(args.metrics)
    check_options(args, metrics)
    if args.json is not None:
        refuse_existing([args.json], args.force, "--json")
    if args.keep_pictures is not None:
        refuse_existing(
            [args.keep_pictures], args.force, "--keep-pictures", within=args.keep_pictures
        )
    device = choose_device(args.device)
    if is_vqgan_of_maps(args.run_folder):
        _evaluate_maps(args, metrics, device)
        return
    if args.maps and "nll" not in metrics:
        raise ValueError(
            f"--maps is for --metrics nll, or for a VQGAN of maps; {args.run_folder} is none"
        )
    if args.keep_pictures is not None:
        sources = (args.images, args.samples, *args.maps)
        check_replaceable(args.keep_pictures, [path for path in sources if path is not None])
    files = list_images(args.images)[: args.limit]
    if metrics & DISTRIBUTION:  # what is missing is told before the work
        _check_counts(args, metrics, len(files))
        inception_weights(args.inception_weights)
    if "nll" in metrics:
        transformer = load_transformer(args.run_folder).to(device)
        vqgan = transformer.first_stage_model
    else:
        vqgan = load_vqgan(args.run_folder).to(device)
    size = args.size or vqgan.config["resolution"]
    check_size(size, vqgan)
    if "lpips" in metrics:
        _check_lpips(size)
    pictures = Pictures(files, size, args.batch)
    perceptual = PerceptualLoss(weights=args.lpips_weights) if "lpips" in metrics else None
    measures = ReconstructionMeasures(vqgan, perceptual)
    nats, nll_size = {}, None
    if "nll" in metrics:  # before all else: pictures and maps that do not fit are told at once
        nats, nll_size = likelihood(args, transformer, files)
    with _picture_folder(args, metrics) as folder:
        _measure(pictures, measures, folder)
        figures = {
            name: value
            for name, value in measures.figures().items()
            if name not in METRICS or name in metrics
        }
        figures |= nats
        if metrics & DISTRIBUTION:
            figures |= _distances(args, metrics, folder, size, device)
    for name in pictures.skipped:
        print(f"skipped, cannot be read: {name}", file=sys.stderr)
    _print_table(figures)
    if perceptual is not None:
        print(perceptual.description)
    lpips = None if perceptual is None else perceptual.description
    _write_json(args, figures, size=size, nll_size=nll_size, skipped=pictures.skipped, lpips=lpips)


def _evaluate_maps(args: argparse.Namespace, metrics: set[str], device: torch.device) -> None:
    from ..train.distributed import Ranks
    from ..train.evaluation import reconstruction_figures

    if metrics != {"psnr", "ssim"}:  # the default
        raise ValueError(
            f"--metrics are those of pictures, {args.run_folder} is a VQGAN of maps: leave it out"
        )
    for name in ("size", "keep_pictures"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for pictures, {args.run_folder} is a VQGAN of "
                "maps: leave it out"
            )
    crops = held_out_maps(args.run_folder, args.images, args.maps, args.limit)
    vqgan = load_vqgan(args.run_folder).to(device)
    found = reconstruction_figures(vqgan, crops, args.batch, Ranks(0, 1, device))
    figures = {"maps": len(crops.held_out)}
    figures |= {name.removeprefix("val_"): value for name, value in found.items()}
    _print_table(figures)
    _write_json(args, figures)


def _check_lpips(size: int) -> None:
    from ..losses.perceptual import SMALLEST_SIDES

    least = SMALLEST_SIDES["vgg"]  # the default network, which measures here
    if size < least:
        raise ValueError(f"--size must be at least {least} for --metrics lpips, got {size}")


def _check_counts(args: argparse.Namespace, metrics: set[str], pictures: int) -> None:
    from ..data import list_images
    from ..evaluate import check_count

    check_count(pictures, args.images)
    if args.samples is not None:
        samples = drawn_pictures(args.samples)
        check_count(len(samples), args.samples, inception_score="is" in metrics)
        left_out = len(list_images(args.samples)) - len(samples)
        more = f"; {left_out} left out, sheets and unfinished ones" if left_out else ""
        print(f"{len(samples)} samples in {args.samples}{more}")


@contextmanager
def _picture_folder(args: argparse.Namespace, metrics: set[str]) -> Iterator[PictureFolder | None]:
    """Where pictures are written: the one that was asked for, a temporary one, or none."""
    if args.keep_pictures is not None:
        remove_old(args.keep_pictures)
        yield PictureFolder(args.keep_pictures, kept=True)
    elif metrics & DISTRIBUTION:
        with tempfile.TemporaryDirectory() as folder:
            yield PictureFolder(Path(folder), kept=False)
    else:
        yield None


def _measure(
    pictures: Pictures, measures: ReconstructionMeasures, folder: PictureFolder | None
) -> None:
    """Adds up all pictures."""
    from tqdm.auto import tqdm

    done = 0
    with tqdm(total=len(pictures.files), unit="picture", desc="measuring") as bar:
        for images in pictures:
            reconstructions = measures.add(images)
            if folder is not None:
                folder.save("real", images, done)
                folder.save("reconstructions", reconstructions, done)
            done += len(images)
            bar.update(len(images))


def _distances(
    args: argparse.Namespace,
    metrics: set[str],
    folder: PictureFolder,
    size: int,
    device: torch.device,
) -> dict[str, float]:
    """FID of the reconstructions, and FID and inception score of the samples, as asked for."""
    from ..evaluate import Pictures, distribution_metrics

    compare = {"weights": args.inception_weights, "device": device, "batch_size": args.batch}
    figures = {}
    real = folder.path / "real"
    if "rfid" in metrics:
        result = distribution_metrics(folder.path / "reconstructions", real, **compare)
        figures["rfid"] = result["fid"]
    if metrics & {"fid", "is"}:
        count = 0
        for images in Pictures(drawn_pictures(args.samples), size, args.batch):
            folder.save("samples", images, count)
            count += len(images)
        result = distribution_metrics(
            folder.path / "samples", real, inception_score="is" in metrics, **compare
        )
        figures |= {"samples": count, **result}
        if "fid" not in metrics:
            del figures["fid"]
    return figures


def _print_table(figures: dict[str, float | int]) -> None:
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:{',' if isinstance(value, int) else '.4f'}}")


def _write_json(args: argparse.Namespace, figures: dict[str, float | int], **about: object) -> None:
    import torch

    from .. import __version__
    from ..data.naming import naming
    from ..models.pretrained import replacing

    path = args.json
    if path is None:
        return
    about = {
        "run": str(args.run_folder),
        "images": str(args.images),
        **about,
        "vqgan_fast": __version__,
        "torch": torch.__version__,
    }
    content = {"figures": figures, "about": about}
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
