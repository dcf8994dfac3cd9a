"""Finding the VQGAN that a transformer is trained on."""

from __future__ import annotations

from pathlib import Path

from vqgan_fast.models import VQGAN, ColourCodes, latent_transformer

from .config import ConfigError


def load_first_stage(path: str, key: str = "first_stage") -> VQGAN | ColourCodes:
    """The first stage of a folder: a run's of either stage, or one by its `save_pretrained`.

    Args:
        path: the folder.
        key: of the configuration, that the path stands at.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    folder = Path(path)
    exported = [place for place in (folder / "vqgan", folder / "model" / "vqgan") if place.is_dir()]
    try:
        return latent_transformer.load_first_stage(exported[0] if exported else folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{key} = {path} holds no VQGAN that can be read: {error}; expected the run "
            "folder of a VQGAN with a checkpoint, or a folder that its save_pretrained wrote"
        ) from error
