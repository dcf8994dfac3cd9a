"""Finding the models of a run, and the device to run them on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..models import VQGAN, LatentTransformer

RUN_HELP = "a run folder that `train` or `demo` wrote, or a folder that save_pretrained wrote"


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one (default: auto)",
    )


def choose_device(name: str) -> torch.device:
    """The device of --device; a ValueError if there is none of that name here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from error
    return device


def load_vqgan(run: Path) -> VQGAN:
    """The first stage of a run of either stage.

    Raises:
        FileNotFoundError: there is none; ValueError: its files are damaged.
    """
    from ..models import VQGAN

    places = [run / "vqgan", run / "model" / "vqgan", run]
    return VQGAN.from_pretrained(_first_with_config(run, places, "VQGAN"))


def load_vqgan_of_pictures(run: Path, instead: str) -> VQGAN:
    """The first stage of a run of either stage, where pictures are to go into it.

    Args:
        instead: what maps are for, or which command is for them.

    Raises:
        FileNotFoundError: there is none; ValueError: its files are damaged, or it is of maps.
    """
    model = load_vqgan(run)
    channels = model.config["in_channels"]
    if channels != 3:
        raise ValueError(
            f"{run} is a VQGAN of maps with {channels} channels, not of pictures; {instead}"
        )
    return model


def load_transformer(run: Path) -> LatentTransformer:
    """Both stages of a stage-2 run.

    Raises:
        FileNotFoundError: there is none; ValueError: its files are damaged.
    """
    from ..models import LatentTransformer

    places = [run / "model", run]
    return LatentTransformer.from_pretrained(_first_with_config(run, places, "transformer"))


def _first_with_config(run: Path, places: list[Path], what: str) -> Path:
    if not run.is_dir():
        raise FileNotFoundError(f"there is no folder {run}; expected {RUN_HELP}")
    for place in places:
        if (place / "config.json").is_file():
            return place
    names = " or ".join(str(place / "config.json") for place in places)
    raise FileNotFoundError(
        f"{run} holds no trained {what} (looked for {names}); expected {RUN_HELP}"
    )
