"""`vqgan-fast convert`: models from and to the reference's and diffusers' files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .outputs import add_force, refuse_existing

if TYPE_CHECKING:
    from ..models import VQGAN, LatentTransformer

SUMMARY = "read and write checkpoints of taming-transformers and of diffusers"
DESCRIPTION = """\
Turns a model into files of another kind with the same weights:

  taming      a Lightning checkpoint and its YAML file (CompVis/taming-transformers; latent
              diffusion's VQModel is read too): a VQGAN, or a transformer with its VQGAN
  diffusers   a folder of diffusers' VQModel
  vqgan_fast  a folder that every command here, and from_pretrained, reads

SOURCE tells by itself what it is. Checkpoints are read without running anything that is in them; a
weight that is missing, left over or of another shape stops the conversion and is named.
"""
EXAMPLES = """\
  vqgan-fast convert last.ckpt --config project.yaml --output runs/imported
  vqgan-fast convert runs/imported --to taming --output exported/
  vqgan-fast convert runs/imported --to diffusers --output vqmodel/
  vqgan-fast convert vqmodel/ --output runs/back
"""
KINDS = ("vqgan_fast", "taming", "diffusers")
EMA = {"auto": None, "yes": True, "no": False}
# What --to taming writes into --output.
CHECKPOINT, CONFIG = "last.ckpt", "project.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="a checkpoint, a run folder or a model's folder"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="the YAML file of a checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--to", choices=KINDS, default=KINDS[0], help="what to write (default: vqgan_fast)"
    )
    parser.add_argument(
        "--ema",
        choices=list(EMA),
        default="auto",
        help="averaged weights of a checkpoint: where there are any, always or never "
        "(default: auto)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="only warn of missing and unexpected weights; missing ones start untrained",
    )
    add_force(parser)


def run(args: argparse.Namespace) -> None:
    from safetensors import SafetensorError

    from ..models import VQGAN, LatentTransformer
    from ..models.diffusers_layout import WEIGHTS_FILE, save_diffusers
    from ..models.taming import save_taming

    output: Path = args.output
    model = _read(args)
    if args.to == "taming":
        refuse_existing([output / CHECKPOINT, output / CONFIG], args.force)
        with _writing(output, output / CHECKPOINT, RuntimeError):
            save_taming(model, output / CHECKPOINT, output / CONFIG)
    elif args.to == "diffusers":
        if not isinstance(model, VQGAN):
            raise ValueError(
                f"{args.source} is a transformer, which diffusers' VQModel has no place for; "
                "convert its VQGAN, the folder vqgan/ in it"
            )
        refuse_existing([output / "config.json", output / WEIGHTS_FILE], args.force)
        with _writing(output, output / WEIGHTS_FILE, SafetensorError):
            save_diffusers(model, output)
    else:
        refuse_existing([output / "config.json"], args.force)
        with _writing(output, f"the model {output}", SafetensorError):
            model.save_pretrained(output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = "transformer and VQGAN" if isinstance(model, LatentTransformer) else "VQGAN"
    print(f"{kind}, {parameters:,} parameters: {args.source} -> {output} ({args.to})")


@contextmanager
def _writing(folder: Path, weights: Path | str, raised: type[Exception]) -> Iterator[None]:
    """Around the writing of a model: on a full disk an OSError that says what was to be written.

    Args:
        folder: of all its files.
        weights: what torch or safetensors writes.
        raised: what that raises instead of an OSError.
    """
    from ..data.naming import naming

    with naming(f"the model {folder}"):
        try:
            yield
        except raised as error:
            reason = str(error).splitlines()[0]
            raise OSError(
                f"{weights} cannot be written: {reason} (is the disk full, or over its quota?)"
            ) from error


def _read(args: argparse.Namespace) -> VQGAN | LatentTransformer:
    source: Path = args.source
    if source.is_dir():
        if args.config is not None or args.ema == "yes":
            option = "--config" if args.config is not None else "--ema yes"
            raise ValueError(f"{option} belongs to a checkpoint, and {source} is a folder")
        return _read_folder(source, strict=not args.partial)
    if not source.is_file():
        raise FileNotFoundError(f"there is no checkpoint or folder {source}")
    if args.config is None:
        raise ValueError(f"{source} needs the YAML file that it was trained with: --config YAML")

    from ..models import VQGAN, load_taming_transformer
    from ..models.taming.config import TRANSFORMER_TARGET, read_yaml

    if not args.config.is_file():
        raise FileNotFoundError(f"there is no configuration file {args.config}")
    given = read_yaml(args.config)
    model = given.get("model")
    if "stage" in given and not (isinstance(model, dict) and "target" in model):
        raise ValueError(
            f"{args.config} is a configuration of vqgan_fast, not the reference's; a run folder of "
            "ours is given as SOURCE itself"
        )
    transformer = isinstance(model, dict) and model.get("target") == TRANSFORMER_TARGET
    load = load_taming_transformer if transformer else VQGAN.from_taming
    return load(source, args.config, use_ema=EMA[args.ema], strict=not args.partial)


def _read_folder(source: Path, strict: bool) -> VQGAN | LatentTransformer:
    from ..models import VQGAN
    from ..models.diffusers_layout import is_diffusers
    from .models import load_transformer, load_vqgan

    if is_diffusers(source):
        return VQGAN.from_diffusers(source, strict=strict)
    # A stage-2 run holds its VQGAN too, so that the transformer is looked for first.
    if any((place / "gpt").is_dir() for place in (source, source / "model")):
        return load_transformer(source)
    return load_vqgan(source)
